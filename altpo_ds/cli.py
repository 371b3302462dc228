"""The command `altpo-ds`: verbs to functions. Each verb imports what it needs, so that a light one starts at once."""

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from altpo_ds.config.errors import UserError

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


def run_config(ctx: typer.Context, run: str) -> "RunConfig":
    """The run of RUN.yaml under the dotted options that a verb did not take for itself."""
    from altpo_ds.config.load import load_config

    if run.startswith("-"):
        raise UserError(f"option {run}: comes before RUN.yaml; write the run file first, then the overrides")
    return load_config(run, ctx.args)


def gpu_here() -> bool:
    """Whether a run would use an NVIDIA GPU, told without importing torch."""
    return os.environ.get("DS_ACCELERATOR") != "cpu" and shutil.which("nvidia-smi") is not None


def main() -> int:
    """Run a command; a mistake of the user's is one line on standard error and status 2."""
    try:
        # a verb returns nothing, and help its status
        return app(standalone_mode=False) or 0
    except CommandLineError as error:
        return _fail(error.format_message().replace("\n", " "))
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _fail(message: str) -> int:
    if os.environ.get("RANK", "0") == "0":
        print(f"altpo-ds: error: {message}", file=sys.stderr)
    return 2
