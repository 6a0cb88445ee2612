-- a behaviour that has current contrastive vectors
select distinct v.name
from vectors as v
where v.is_current
order by v.name
