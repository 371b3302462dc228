"""How metrics are named and written for people, and the table that a terminal shows."""

import math
from collections.abc import Mapping

from rich.table import Table

from altpo_ds.evaluate.ks import INDISTINGUISHABLE
from altpo_ds.evaluate.metrics import SPLITS

Metrics = Mapping[str, float | None]

NOTHING = "–"
HIGHER, LOWER = "↑", "↓"  # after a no-break space in the labels
LABELS: dict[str, str] = {
    "forget_quality": f"Forget quality (p)\N{NO-BREAK SPACE}{HIGHER}",
    "forget_quality_log10": f"Forget quality, log10 p\N{NO-BREAK SPACE}{HIGHER}",
    "forget_quality_ks": f"KS statistic\N{NO-BREAK SPACE}{LOWER}",
    "model_utility": f"Model utility\N{NO-BREAK SPACE}{HIGHER}",
}
ACRONYMS = {"mia": "MIA", "auc": "AUC", "muse": "MUSE", "rouge": "ROUGE", "fade": "FADE"}
SPLIT_LABELS = {
    "forget": "Forget",
    "retain": "Retain",
    "real_authors": "Real authors",
    "world_facts": "World facts",
}
for _split, _label in SPLIT_LABELS.items():
    _better = LOWER if _split == "forget" else HIGHER
    LABELS[f"{_split}_probability"] = f"{_label}: probability\N{NO-BREAK SPACE}{_better}"
    LABELS[f"{_split}_rouge_l"] = f"{_label}: ROUGE-L recall\N{NO-BREAK SPACE}{_better}"
    LABELS[f"{_split}_truth_ratio"] = f"{_label}: truth ratio\N{NO-BREAK SPACE}{HIGHER}"
    LABELS[f"{_split}_rows"] = f"{_label}: rows"


def label(name: str) -> str:
    """A metric's name for people; metrics of other suites keep theirs, without underscores."""
    words = " ".join(ACRONYMS.get(word, word) for word in name.split("_"))
    return LABELS.get(name, words[:1].upper() + words[1:])


def write_value(name: str, metrics: Metrics | None) -> str:
    """A metric as text: rows as whole numbers, small p-values as powers of ten, the rest to three decimals."""
    value = (metrics or {}).get(name)
    if metrics is None or value is None:
        return NOTHING
    if name.endswith("_rows"):
        return str(int(value))
    if name.endswith("_log10"):
        return f"{value:z.1f}"
    if value == 0 and name == "forget_quality" and metrics.get("forget_quality_log10") is not None:
        return f"1e{math.floor(metrics['forget_quality_log10'] or 0)}"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"


def utility_kept(before: Metrics | None, after: Metrics | None) -> float | None:
    """Share of the model utility before that is there after; None where either is unknown or there was none."""
    first, last = (before or {}).get("model_utility"), (after or {}).get("model_utility")
    return last / first if first and last is not None else None


def summary_table(before: Metrics | None, after: Metrics | None, retain: Metrics | None) -> Table:
    """One screen for the terminal: what was forgotten, what was kept, and the splits behind it."""
    quality, kept = (after or {}).get("forget_quality"), utility_kept(before, after)
    verdicts = []
    if quality is not None:
        verdicts.append("forgotten" if quality > INDISTINGUISHABLE else "not forgotten")
    if kept is not None:
        verdicts.append(f"{kept:.0%} of model utility kept")
    title = "Unlearning: " + (", ".join(verdicts) or "evaluation")
    return metrics_table(title, {"before": before, "after": after, "retain model": retain})


def metrics_table(title: str, models: Mapping[str, Metrics | None]) -> Table:
    """A column for each model: the headlines, TOFU's splits, then what other suites measured."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for heading in models:
        table.add_column(heading, justify="right")
    headlines = ["forget_quality", "model_utility"]
    names = [f"{split}_{score}" for split in SPLITS for score in ("probability", "rouge_l", "truth_ratio")]
    found = dict.fromkeys(name for metrics in models.values() for name in metrics or {})
    others = [name for name in found if name not in (*headlines, *names) and not name.startswith("forget_quality")]
    others.sort(key=lambda name: name.endswith("_rows"))  # what the rest rests on comes last
    for name in [*headlines, *names, *others]:
        cells = [write_value(name, metrics) for metrics in models.values()]
        if any(cell not in (NOTHING, "0") for cell in cells):
            style = "bold" if name in headlines else None
            table.add_row(label(name), *cells, style=style, end_section=name == headlines[-1])
    return table
