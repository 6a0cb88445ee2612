-- one row: a scoring
select g.* from scorings as g where g.scoring_id = $scoring_id
