"""Each room imports only rooms before it, one room alone knows DeepSpeed, and the package imports neither."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import altpo_ds

PACKAGE = Path(altpo_ds.__file__).parent
ROOMS = ["config", "data", "objective", "engine", "alternates", "evaluate", "train"]
ROOMS += ["plan", "demo", "preflight", "submit", "status", "sweep", "doctor", "cli"]
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Absolute names that a module imports, inside its functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_of(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_every_room_has_its_place() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"ds_configs"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) | {"smollm2"}
    files = [file for file in MODULES if room_of(file) == room]
    assert files
    for file in files:
        used = {name.split(".")[1] for name in imports(file) if name.startswith("altpo_ds.")}
        assert used <= allowed, f"{file.relative_to(PACKAGE)} imports {sorted(used - allowed)}"


def test_only_the_engine_imports_deepspeed() -> None:
    users = {room_of(file) for file in MODULES if any(is_of(name, "deepspeed") for name in imports(file))}
    assert users == {"engine"}


def test_config_imports_no_torch() -> None:
    heavy = ("torch", "transformers", "deepspeed", "datasets")
    for file in MODULES:
        if room_of(file) == "config":
            assert not [name for name in imports(file) if any(is_of(name, package) for package in heavy)], file


def test_objective_imports_torch_alone() -> None:
    known = {"torch", "altpo_ds", "dataclasses", "typing", "collections", "math"}
    for file in MODULES:
        if room_of(file) == "objective":
            assert {name.split(".")[0] for name in imports(file)} <= known, file


def test_the_public_names() -> None:
    names = {"RunConfig", "load_config", "unlearn", "evaluate", "generate_alternates", "altpo_loss", "Trainer"}
    assert set(altpo_ds.__all__) == names


def test_importing_the_package_imports_no_deepspeed() -> None:
    code = "import altpo_ds, sys; assert not {'deepspeed', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
