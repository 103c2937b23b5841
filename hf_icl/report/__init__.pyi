from hf_icl.report.analysis import Analysis as Analysis, analyse as analyse
from hf_icl.report.card import render_card as render_card
from hf_icl.report.write import Report as Report, write_report as write_report
