"""Says which folders are packages; everything else stands in pyproject.toml.

The programs live at the top of the checkout, where a reader looks for them, and are installed as
`tfdp.scripts`, so that they can share code and have console commands.
"""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["tfdp", "tfdp.*"]), "tfdp.scripts"],
    package_dir={"tfdp": "tfdp", "tfdp.scripts": "scripts"},
    package_data={"tfdp": ["py.typed"]},
)
