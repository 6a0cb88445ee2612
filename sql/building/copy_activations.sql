-- the rows of `activations` of the attached atlas `old` for a run of an SAE's neurons, sorted
insert into activations by name
select o.* from old.activations as o
where o.sae_key = $sae_key and o.neuron between $first_neuron and $last_neuron
order by o.neuron, o.prompt_id
