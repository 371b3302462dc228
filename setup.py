"""What pyproject.toml cannot say: ds_configs/ is a top-level folder, and installs inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["altpo_ds", "altpo_ds.*"]), "altpo_ds.ds_configs"],
    package_dir={"altpo_ds.ds_configs": "ds_configs"},
)
