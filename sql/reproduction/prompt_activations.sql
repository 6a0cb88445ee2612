-- a neuron of an SAE that fired on a prompt of the frame `wanted_prompts` (text_id, prompt_id)
select a.sae_key, w.text_id, a.neuron, a.act_sum, a.act_max, a.act_count
from activations as a
join wanted_prompts as w on w.prompt_id = a.prompt_id
where list_contains($sae_keys, a.sae_key)
order by a.sae_key, w.text_id, a.neuron
