"""What a person or the Hub sees of runs: numbers, figures, page, model card."""

from hf_icl.report.analysis import analyse
from hf_icl.report.card import render_card
from hf_icl.report.eval_results import EVAL_RESULTS_FILE, render_eval_results
from hf_icl.report.record import RunRecord
from hf_icl.report.write import write_report

__all__ = ["EVAL_RESULTS_FILE", "RunRecord", "analyse", "render_card", "render_eval_results", "write_report"]
