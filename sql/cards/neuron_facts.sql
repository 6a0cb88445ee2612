-- one row: a neuron of an SAE with the label that is shown, the SAE, and how the atlas was made
select
    n.neuron, n.support, n.density, n.max_activation, n.decoder_norm, n.top_tokens, l.label,
    s.sae_key, s.sae_id, s.release, s.sae_hash, s.model, s.model_hash, s.hook_name, s.architecture, s.d_in, s.d_sae, s.dtype,
    s.prepend_bos, s.context_size, s.neuronpedia_id,
    (select count(*) from prompts) as prompts, (select sum(p.n_tokens)::bigint from prompts as p) as tokens,
    a.encoder, a.encoder_hash, a.reference_hash, a.created_at
from neurons as n
join saes as s on s.sae_key = n.sae_key
cross join atlas as a
left join neuron_labels as l on l.sae_key = n.sae_key and l.neuron = n.neuron
where n.sae_key = $sae_key and n.neuron = $neuron
