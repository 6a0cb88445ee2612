-- a reference prompt behind a neuron's score, heaviest first
select * from why($topic, $neuron, sae := $sae, scorer := $scorer)
