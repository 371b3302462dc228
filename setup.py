"""The part of the build that pyproject.toml cannot say: these top-level folders install inside the package."""

from setuptools import find_packages, setup

FOLDERS = ("ds_configs", "launchers", "slurm")

setup(
    packages=[*find_packages(include=["altpo_ds", "altpo_ds.*"]), *(f"altpo_ds.{name}" for name in FOLDERS)],
    package_dir={f"altpo_ds.{name}": name for name in FOLDERS},
)
