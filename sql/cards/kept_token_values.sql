-- one of the prompts $prompts, token by token, where a neuron's values on it are kept
select k.prompt_id, k.tokens, k.activations
from token_values as k
where k.sae_key = $sae_key and k.neuron = $neuron and k.prompt_id in (select unnest($prompts::uinteger[]))
order by k.prompt_id
