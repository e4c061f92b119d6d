"""Learned plans: tables of coefficients fitted to a network, to take fewer evaluations."""

from diffusolve.learning.fit import fit_weights
from diffusolve.learning.guided import Guided
from diffusolve.learning.judge import Evaluation, evaluate
from diffusolve.learning.published import PUBLISHED, published
from diffusolve.learning.report import LearningReport
from diffusolve.learning.table import Table, plan_of, table_of
from diffusolve.learning.teacher import TeacherError
from diffusolve.learning.whole import METHODS, learn, learn_with_report

__all__ = [
    "METHODS",
    "PUBLISHED",
    "Evaluation",
    "Guided",
    "LearningReport",
    "Table",
    "TeacherError",
    "evaluate",
    "fit_weights",
    "learn",
    "learn_with_report",
    "plan_of",
    "published",
    "table_of",
]
