"""Files that are there wholly or not at all, and readable by their owner alone: runs hold other people's data."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from altpo_ds.config.errors import UserError

OWNER_ALONE = 0o077  # the umask of the command: what libraries write is the owner's alone, too

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space of your quota, or choose another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def project_folder(name: str) -> Path:
    """A top-level folder of the project: an installed package holds it itself, a checkout has it beside the package."""
    package = Path(__file__).parents[1]
    return next(at for at in (package / name, package.parent / name) if at.is_dir())


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell a user about a file or folder that cannot be written."""
    remedy = REMEDIES.get(error.errno or 0, "choose another place, or see to its permissions")
    return UserError(f"cannot write '{path}': {error.strerror or error}; {remedy}")


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing, each for its owner alone. UserError where it cannot be."""
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(exist_ok=True)  # raises where a file has the name
    except OSError as error:
        raise unwritable(folder, error) from error


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """An empty file beside `file`, of mode 0600, for the block to fill; synced and renamed to `file` after it.

    UserError where it cannot be written. A block that raises leaves nothing behind, and an older `file` as it was.
    """
    make_folder(file.parent)
    aside = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.close(descriptor)
        aside = Path(name)
        yield aside
        sync(aside)
        aside.replace(file)
        sync(file.parent)
    except OSError as error:
        raise unwritable(file, error) from error
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Writes a UTF-8 file as `whole_file` does; a lone surrogate, which UTF-8 lacks, is escaped as in JSON."""
    with whole_file(file) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
