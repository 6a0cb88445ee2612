-- a neuron has no values on the tokens of the prompts $prompts any more
delete from token_values as k
where k.sae_key = $sae_key and k.neuron = $neuron and list_contains($prompts::uinteger[], k.prompt_id)
