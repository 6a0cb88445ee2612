-- one row: the smallest and the largest g of an SAE's neurons for texts whose mean embedding is $vector, and those of one neuron
select min(x.g) as lowest, max(x.g) as highest, max(x.g) filter (x.neuron = $neuron) as g,
    max(x.score) filter (x.neuron = $neuron) as score, max(x.z) filter (x.neuron = $neuron) as z
from search_neurons($vector, 1000000000, sae := $sae_key, texts := $texts) as x
