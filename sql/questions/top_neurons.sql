-- one of the best neurons of a topic by a scorer, per SAE
select * from top_neurons($topic, $n, sae := $sae, scorer := $scorer, "by" := $by)
