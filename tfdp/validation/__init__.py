"""Does the output for one example depend on another? Shown by experiment."""

from tfdp.validation.validate import ValidationReport, validate

__all__ = ["ValidationReport", "validate"]
