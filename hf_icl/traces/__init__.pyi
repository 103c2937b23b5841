from hf_icl.traces.folder import Trace as Trace
from hf_icl.traces.prompts import PromptRow as PromptRow, compare_prompts as compare_prompts
from hf_icl.traces.subject import Subject as Subject, open_subject as open_subject
from hf_icl.traces.tracing import trace as trace
