-- a neuron with the mean and standard deviation of its centred g over the random topics
insert into null_scores by name
select $null_id as null_id, m.neuron, avg(m.centred_g) as mean, stddev_samp(m.centred_g) as sd
from random_means as m
group by m.neuron
order by m.neuron
