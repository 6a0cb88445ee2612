-- one of the best neurons of a scoring, best first
select s.neuron from scores as s
where s.scoring_id = $scoring_id and s.score is not null
order by s.score desc, s.neuron
limit $count
