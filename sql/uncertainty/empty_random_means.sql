-- temp table: a (random topic, neuron), and the neuron's g minus the mean g of the topic; still empty
create or replace temp table random_means (topic integer, neuron uinteger, centred_g double)
