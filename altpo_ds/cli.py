"""The command `altpo-ds`: verbs to functions. Each verb imports what it needs, so that a light one starts at once."""

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from altpo_ds.config.errors import FAILED, INTERRUPTED, NodeError, Stopped, UserError
from altpo_ds.config.files import OWNER_ALONE, REMEDIES
from altpo_ds.config.secrets import hidden

if TYPE_CHECKING:
    from altpo_ds.config.schema import RunConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RunFile = Annotated[str, typer.Argument(metavar="RUN.yaml", help="Run file; --objective.beta=0.05 overrides a key.")]
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

# every error of a wrong command line derives from this class, which typer does not name
CommandLineError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])


@app.callback()
def about() -> None:
    """Unlearning for language models: alternate preference optimization under DeepSpeed ZeRO-3."""


@app.command(context_settings=OVERRIDES)
def config(
    ctx: typer.Context,
    run: RunFile,
    world_size: Annotated[
        int, typer.Option(min=1, envvar="WORLD_SIZE", help="Ranks to do the batch arithmetic for.")
    ] = 1,
    gpu: Annotated[bool | None, typer.Option("--gpu/--cpu", help="Device; the default is what is here.")] = None,
) -> None:
    """Print the resolved run as YAML, then, as comments, the batch arithmetic and the DeepSpeed dict."""
    import json

    from altpo_ds.config.batch import batch_arithmetic
    from altpo_ds.config.deepspeed import deepspeed_dict
    from altpo_ds.config.load import dump_config

    resolved = run_config(ctx, run)
    batch = batch_arithmetic(resolved.train, world_size)
    settings = deepspeed_dict(resolved, batch, has_gpu=gpu_here() if gpu is None else gpu)
    print(dump_config(resolved))
    print(f"# batch: {batch}")
    print("# deepspeed:")
    for line in json.dumps(settings, indent=2).splitlines():
        print(f"#   {line}")


@app.command(context_settings=OVERRIDES)
def alternates(
    ctx: typer.Context,
    run: RunFile,
    report_only: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Write nothing; the quality of this file. Repeatable.")
    ] = None,
) -> None:
    """Write k alternate answers for each forget question, by the model itself."""
    from rich.console import Console

    from altpo_ds.alternates.report import report_quality, report_table
    from altpo_ds.alternates.run import runs_by_seed, write_share

    config = run_config(ctx, run)
    if report_only:
        qualities = report_quality(config, report_only)
        if is_main():
            Console().print(report_table(qualities))
        return
    for of_seed in runs_by_seed(config):
        summary = write_share(of_seed)
        if is_main():
            shard = f"shard {config.alternates.shard} is written; the last of {config.alternates.shards} merges them"
            Console().print(shard if summary is None else summary.table())


Resume = Annotated[str, typer.Option(help="auto: continue what run_dir holds; never; or a checkpoint's path.")]


@app.command(context_settings=OVERRIDES)
def unlearn(ctx: typer.Context, run: RunFile, resume: Resume = "auto") -> None:
    """Unlearn data.forget by alternate preference optimization."""
    from altpo_ds.train.run import unlearn

    done(unlearn(run_config(ctx, run), resume))


@app.command(context_settings=OVERRIDES)
def finetune(ctx: typer.Context, run: RunFile, resume: Resume = "auto") -> None:
    """Fine-tune on data.train: makes 'full' and 'retain' models."""
    from altpo_ds.train.run import finetune

    done(finetune(run_config(ctx, run), resume))


@app.command(context_settings=OVERRIDES)
def evaluate(
    ctx: typer.Context,
    run: RunFile,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model or run directory, or hub name; repeatable. Default: what the run has trained."),
    ] = None,
    retain_reference: Annotated[str | None, typer.Option(help="evaluation.json of the retain model.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suites, separated by commas.")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: evaluation.json in run_dir.")] = None,
) -> None:
    """Evaluate one or several models and write evaluation.json of each."""
    from rich.console import Console

    from altpo_ds.evaluate.run import evaluate_models
    from altpo_ds.evaluate.summary import metrics_table

    named = {"evaluate.retain_reference": retain_reference, "evaluate.suite": suite and f"[{suite}]"}
    ctx.args += [f"--{key}={value}" for key, value in named.items() if value is not None]
    evaluations = evaluate_models(run_config(ctx, run), model or [], out)
    if is_main():
        Console().print(metrics_table("Evaluation", {name: found["metrics"] for name, found in evaluations.items()}))


@app.command()
def export(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="Run directory, or one of its checkpoints.")],
    to: Annotated[str, typer.Option(help="Directory to write.")],
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file.")] = "5GB",
) -> None:
    """Turn a ZeRO checkpoint into a Hugging Face model directory."""
    from pathlib import Path

    from altpo_ds.engine.export import export, newest

    print(export(newest(Path(run_dir)), Path(to), max_shard_size))


@app.command()
def demo(
    out: Annotated[str | None, typer.Option(help="New directory; default: runs/demo-TIME.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of corpus, models and sampling.")] = 0,
) -> None:
    """The whole story on an embedded default: make models, write alternates, unlearn, evaluate, report."""
    import time
    from pathlib import Path

    from altpo_ds.demo.run import demo

    demo(Path(out or time.strftime("runs/demo-%Y%m%d-%H%M%S")), seed)


@app.command()
def report(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="Run directories, side by side.")],
    out: Annotated[str, typer.Option(help="File to write.")] = "report.html",
    redact: Annotated[bool, typer.Option("--redact", help="For outsiders: no texts, paths or names.")] = False,
) -> None:
    """Write one self-contained page about one or several runs."""
    from pathlib import Path

    from altpo_ds.evaluate.redact import redacted
    from altpo_ds.evaluate.report import write_report
    from altpo_ds.evaluate.runs import read_runs

    runs = read_runs([Path(run_dir) for run_dir in run_dirs])
    write_report(Path(out), [redacted(run, number) for number, run in enumerate(runs, 1)] if redact else runs)
    print(out)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="A sweep in W&B's file format.")],
    offline: Annotated[bool, typer.Option("--offline", help="Without W&B's server, through Optuna.")] = False,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of a trial on this machine.")] = 1,
    count: Annotated[int | None, typer.Option(min=1, help="Trials that this worker runs at most.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit an array job, a task for each trial.")] = False,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="With --slurm: --sbatch=--nodes=2. Repeat.")
    ] = None,
) -> None:
    """Run the trials of a sweep; started again, or several times at once, it takes up what is left."""
    from pathlib import Path

    from rich.console import Console

    from altpo_ds.sweep.file import read_sweep

    sweep = read_sweep(Path(file))
    if ranks > 1 and (slurm or not offline):
        raise UserError(
            f"--ranks {ranks}: is for --offline alone; elsewhere the launcher in the sweep's command sets them"
        )
    if sbatch and not slurm:
        raise UserError(f"--sbatch={sbatch[0]}: goes with --slurm; add it")
    if slurm:
        from altpo_ds.sweep.cluster import submit

        print(submit(sweep, offline, sbatch or []))
    elif offline:
        from altpo_ds.sweep.summary import summarize
        from altpo_ds.sweep.worker import work

        summarize(work(sweep, ranks, count, Console()), Console())
    else:
        from altpo_ds.sweep.online import create, run_agent

        run_agent(create(sweep), count)


@app.command()
def sync(run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run that W&B logged offline.")]) -> None:
    """Send an offline run to Weights & Biases."""
    from pathlib import Path

    from altpo_ds.train.wandb_run import sync

    sync(Path(run_dir))


@app.command(context_settings=OVERRIDES)
def submit(
    ctx: typer.Context,
    run: RunFile,
    verb: Annotated[str, typer.Option(help="unlearn, finetune, alternates or evaluate.")] = "unlearn",
    nodes: Annotated[str, typer.Option(help="Nodes, or the least and the most: 2-4.")] = "1",
    gpus_per_node: Annotated[int, typer.Option(min=0, help="Each gets a rank; 0: ranks on the CPU.")] = 0,
    ranks_per_node: Annotated[int, typer.Option(min=1, help="Ranks of a node without GPUs.")] = 1,
    time: Annotated[str, typer.Option(help="Time limit, hours:minutes:seconds.")] = "12:00:00",
    job_name: Annotated[str | None, typer.Option(help="Default: the verb and the run directory's name.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="Further option of sbatch: --sbatch=--qos=high. Repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and print the batch script only.")] = False,
) -> None:
    """Start a run on a Slurm cluster: write its batch script into run_dir, and submit it."""
    from altpo_ds.submit import Job, submit

    named = {"--partition": partition, "--account": account}
    options = [f"{name}={value}" for name, value in named.items() if value is not None] + (sbatch or [])
    job = Job(nodes, gpus_per_node, ranks_per_node, time, job_name, options)
    config, arguments = verb_run(ctx, verb, run)
    print("\n".join(submit(config, verb, job, arguments, dry_run=dry_run)))


@app.command()
def status(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="Run directory.")],
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how far a run is: step, rate, time left, last checkpoint, its Slurm jobs."""
    from pathlib import Path

    from altpo_ds.status import read_status

    found = read_status(Path(run_dir))
    print(found.json() if json else "\n".join(found.lines()))


@app.command(context_settings=OVERRIDES, hidden=True)
def preflight(ctx: typer.Context, verb: str, run: RunFile) -> None:
    """Check that the files of a command are there, and print run_dir: what a batch script does first."""
    from altpo_ds.preflight import preflight

    config, _ = verb_run(ctx, verb, run)
    preflight(config, verb)
    print(config.run_dir)


@app.command()
def doctor(
    run_dir: Annotated[str, typer.Option(help="Where runs are to be written.")] = ".",
) -> None:
    """What this machine has and lacks for a run, each lack with its remedy; status 2 where a run is impossible."""
    from pathlib import Path

    from rich.console import Console

    from altpo_ds.doctor import examine, table

    console = Console()
    with console.status("looking around"):
        findings = list(examine(Path(run_dir)))
    console.print(table(findings))
    if any(finding.stops for finding in findings):
        raise typer.Exit(2)


@app.command(context_settings=OVERRIDES)
def plan(
    ctx: typer.Context,
    run: RunFile,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs, or with --cpu ranks, of a node.")] = 1,
    gpu_memory: Annotated[float, typer.Option(min=0, help="GiB of a GPU.")] = 80,
    host_memory: Annotated[float, typer.Option(min=0, help="GiB of a node.")] = 1000,
    cpu: Annotated[bool, typer.Option("--cpu", help="Ranks on CPUs, in float32.")] = False,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a typical row.")] = 64,
    response_tokens: Annotated[int, typer.Option(min=1, help="Of a typical row.")] = 64,
    tflops: Annotated[float | None, typer.Option(min=1e-6, help="That a rank reaches; default: 400.")] = None,
    inside: Annotated[float | None, typer.Option(min=1e-6, help="GB/s of a GPU in its node; default: 300.")] = None,
    between: Annotated[float | None, typer.Option(min=1e-6, help="GB/s of a GPU between nodes; default: 40.")] = None,
    disk: Annotated[float | None, typer.Option(min=1e-6, help="GB/s of a node's disk; default: 2.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine's speeds first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, sizes in bytes.")] = False,
) -> None:
    """Predict memory, traffic and time of a run, for each DeepSpeed file, from the model's configuration alone."""
    import json
    from dataclasses import asdict, replace
    from pathlib import Path

    from rich.console import Console

    from altpo_ds.plan import run as planning
    from altpo_ds.plan.calibrate import calibrate as measure
    from altpo_ds.plan.cost import Machine

    where = planning.Nodes(nodes, gpus_per_node, gpu_memory, host_memory, gpu=not cpu)
    resolved = run_config(ctx, run)
    machine = measure(Path.cwd(), gpu_here()) if calibrate else Machine()
    given = {
        "flops": (tflops, 1e12),
        "inside_node": (inside, 1e9),
        "between_nodes": (between, 1e9),
        "disk": (disk, 1e9),
    }
    machine = replace(machine, **{name: value * unit for name, (value, unit) in given.items() if value is not None})
    shape, choices = planning.plan(resolved, where, machine, prompt_tokens, response_tokens)
    if as_json:
        print(json.dumps(planning.as_json(shape, choices, where) | {"machine": asdict(machine)}))
        return
    Console(width=None if sys.stdout.isatty() else 110).print(planning.table(shape, choices, where))
    print(planning.verdict(choices))
    if calibrate:
        print(", ".join(f"{name} {value:.3g}/s" for name, value in asdict(machine).items()))


def is_main() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0"


def done(path: object) -> None:
    """Prints a command's result, once."""
    if is_main():
        print(path)


def run_config(ctx: typer.Context, run: str) -> "RunConfig":
    """The run of RUN.yaml under the dotted options that a verb did not take for itself."""
    from altpo_ds.config.load import load_config

    if run.startswith("-"):
        raise UserError(f"option {run}: comes before RUN.yaml; write the run file first, then the overrides")
    return load_config(run, ctx.args)


def verb_run(ctx: typer.Context, verb: str, run: str) -> tuple["RunConfig", list[str]]:
    """The run that another verb would get from the arguments left in `ctx`, and that verb's own options."""
    from altpo_ds.preflight import REQUIRED

    if verb not in REQUIRED:
        raise UserError(f"verb {verb}: not a job; one of {', '.join(REQUIRED)}")
    command = cast("Any", ctx.find_root().command).commands[verb]
    parsed = command.make_context(verb, [run, *ctx.args])
    own = []
    for option in (option for option in command.params if option.opts[0].startswith("--")):
        value = parsed.params[str(option.name)]
        if value is not None and value != option.default:
            values = value if isinstance(value, list | tuple) else [value]  # a repeatable option has several
            own += [f"{option.opts[0]}={one}" for one in values]
    return run_config(parsed, run), own


def gpu_here() -> bool:
    """Whether a run would use an NVIDIA GPU, told without importing torch."""
    return os.environ.get("DS_ACCELERATOR") != "cpu" and shutil.which("nvidia-smi") is not None


def main() -> int:
    """Run a command; a mistake of the user's is one line on standard error and status 2."""
    os.umask(OWNER_ALONE)
    try:
        # a verb returns nothing, and help its status
        return app(standalone_mode=False) or 0
    except CommandLineError as error:
        return _fail(error.format_message().replace("\n", " "))
    except UserError as error:
        return _fail(str(error), alone=isinstance(error, NodeError))
    except Stopped as stopped:
        _say(str(stopped))
        return stopped.status
    except OSError as error:
        if error.filename is None and error.errno not in REMEDIES:
            raise
        place = "" if error.filename is None else f"'{error.filename}': "
        remedy = REMEDIES.get(error.errno or 0, "check the path and its permissions")
        return _fail(f"{place}{error.strerror}; {remedy}")
    except RuntimeError as error:
        if not _explained(error):
            raise
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED


def _explained(error: RuntimeError) -> bool:
    """Whether the error came of a rank that is lost, and somebody has said so."""
    if "torch.distributed" not in sys.modules:
        return False
    from altpo_ds.engine import roll_call

    return roll_call.explain(error)


def _fail(message: str, *, alone: bool = False) -> int:
    """One line for certain: a wrong value is shown with its line ends, direction marks and the like escaped."""
    _say(
        "error: " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message), alone=alone
    )
    return 2


def _say(message: str, *, alone: bool = False) -> None:
    """On standard error; `alone`: no other rank says it."""
    if alone or is_main():
        print(f"altpo-ds: {hidden(message)}", file=sys.stderr)
