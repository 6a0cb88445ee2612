-- one of the prompts $prompts on which a neuron, $first to $last of an SAE, fires most: the $count strongest
select a.neuron, a.prompt_id
from activations as a
where a.sae_key = $sae_key and a.neuron between $first::uinteger and $last::uinteger
    and a.prompt_id in (select unnest($prompts::uinteger[]))
qualify row_number() over (partition by a.neuron order by a.act_max desc, a.prompt_id) <= $count
order by a.neuron, a.prompt_id
