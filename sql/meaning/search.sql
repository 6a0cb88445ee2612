-- one of the neurons of an SAE that are closest to the mean embedding of a topic's texts
select $topic as topic, x.*
from search_neurons($vector, $n, sae := $sae, texts := $texts, "by" := $by) as x
