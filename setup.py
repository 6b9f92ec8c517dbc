"""Says which folders are packages; everything else stands in pyproject.toml.

The programs live at the top of the checkout, where a reader looks for them, and are installed as
`tfdp.scripts`, so that they can share code and have console commands. These begin in a module that
is installed beside `tfdp`: it must run before `tfdp` is imported.
"""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["tfdp", "tfdp.*"]), "tfdp.scripts"],
    py_modules=["tfdp_console"],
    package_dir={"": "scripts", "tfdp": "tfdp", "tfdp.scripts": "scripts"},
    package_data={"tfdp": ["py.typed"]},
    options={"egg_info": {"egg_base": "."}},  # else it would lie in the folder of ""
)
