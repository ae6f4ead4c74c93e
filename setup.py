"""The packages of the distribution: the code and, as ``schnorb_t.configs``, the configurations of ``configs/``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["schnorb_t*"]), "schnorb_t.configs"],
    package_dir={"schnorb_t.configs": "configs"},
)
