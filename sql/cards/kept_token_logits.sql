-- a token that a neuron promotes or suppresses most, where its logits are kept
select w.side, w.rank, w.token, w.logit
from token_logits as w
where w.sae_key = $sae_key and w.neuron = $neuron
order by w.side, w.rank
