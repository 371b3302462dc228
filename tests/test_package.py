"""What is installed, and what the package shows to the outside."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import altpo_ds
from altpo_ds.config.load import load_config
from altpo_ds.config.schema import RunConfig

ROOT = Path(__file__).parents[1]


def test_public_names_come_from_their_rooms() -> None:
    assert altpo_ds.RunConfig is RunConfig
    assert altpo_ds.load_config is load_config
    with pytest.raises(AttributeError, match="no_such_name"):
        altpo_ds.no_such_name  # noqa: B018


def test_evaluate_is_a_room_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    import altpo_ds.evaluate.metrics
    import altpo_ds.evaluate.run

    assert altpo_ds.evaluate.metrics.probability(0.0) == 1.0
    monkeypatch.setattr(altpo_ds.evaluate.run, "evaluate", lambda config, **options: (config, options))
    called = altpo_ds.evaluate("a run", model="m")  # pyright: ignore[reportCallIssue]
    assert called == ("a run", {"model": "m"})


@pytest.mark.parametrize("name", altpo_ds.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert callable(getattr(altpo_ds, name))


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_the_folders_beside_them(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for folder in ("altpo_ds", "ds_configs", "launchers", "slurm"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(copy)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    modules = {str(path.relative_to(copy)) for path in (copy / "altpo_ds").rglob("*.py")}
    files = {f"altpo_ds/ds_configs/{path.name}" for path in (ROOT / "ds_configs").glob("*.json")}
    files |= {f"altpo_ds/{path.relative_to(ROOT)}" for path in [*ROOT.glob("launchers/*.sh"), *ROOT.glob("slurm/*.*")]}
    templates = {str(path.relative_to(copy)) for path in (copy / "altpo_ds").rglob("*.jinja")}
    assert {"altpo_ds/ds_configs/zero3.json", "altpo_ds/launchers/srun.sh", "altpo_ds/slurm/job.sh"} <= files
    assert modules | files | templates <= names
