from hf_icl.experiments.claim import (
    Claim as Claim,
    Criterion as Criterion,
    Scale as Scale,
    list_claims as list_claims,
    load_claim as load_claim,
)
from hf_icl.experiments.evidence import Evidence as Evidence
from hf_icl.experiments.judging import (
    Finding as Finding,
    judge_claim as judge_claim,
    judge_criterion as judge_criterion,
)
from hf_icl.experiments.plan import Plan as Plan, plan_claims as plan_claims
from hf_icl.experiments.push import push_claims as push_claims
from hf_icl.experiments.reproduction import reproduce as reproduce
from hf_icl.experiments.write import write_findings as write_findings
