-- one of the best neurons of a topic, per SAE
select * from top_neurons($topic, $n, sae := $sae)
