"""The programs of tfdp, installed as `tfdp.scripts`."""
