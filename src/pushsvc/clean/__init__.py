"""Cleans tables before they are published: named rules, and a report of what each of them did."""

from pushsvc.clean.cleaning import Cleaned, RuleReport, clean
from pushsvc.clean.rules import InvalidRules, Rules

__all__ = ["Cleaned", "InvalidRules", "RuleReport", "Rules", "clean"]
