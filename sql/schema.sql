-- The tables of an atlas: the only place where they are defined. No primary key and no foreign key: they make
-- the bulk load ten times slower, and DuckDB cannot replace a referenced row inside one transaction.

create table atlas (
    schema_version uinteger,
    state varchar,
    encoder varchar,
    encoder_source varchar,
    encoder_hash varchar,
    reference_hash varchar,
    created_at timestamp,
    libraries varchar
);
comment on table atlas is 'The file itself (one row)';
comment on column atlas.schema_version is 'Version of these tables';
comment on column atlas.state is '''building'' until every shard is in, then ''complete''';
comment on column atlas.encoder is 'Sentence encoder, as it was named';
comment on column atlas.encoder_source is 'Where the encoder was loaded from: cache, hub, package or folder';
comment on column atlas.encoder_hash is 'Hash of the encoder''s weights and vocabulary';
comment on column atlas.reference_hash is 'Hash of the reference prompts, in order';
comment on column atlas.created_at is 'When the build began (UTC)';
comment on column atlas.libraries is 'Versions of the libraries that built it, as JSON';

create table saes (
    sae_key uinteger,
    model varchar,
    model_hash varchar,
    tokenizer_hash varchar,
    release varchar,
    sae_id varchar,
    sae_hash varchar,
    hook_name varchar,
    architecture varchar,
    d_in uinteger,
    d_sae uinteger,
    dtype varchar,
    context_size uinteger,
    prepend_bos boolean,
    center_writing_weights boolean,
    normalize_activations varchar,
    reshape_activations varchar,
    neuronpedia_id varchar
);
comment on table saes is 'An SAE in this atlas';
comment on column saes.sae_key is 'Our integer for the SAE, used by the other tables';
comment on column saes.model is 'Language model: hub name or absolute folder';
comment on column saes.model_hash is 'Hash of the model''s weights';
comment on column saes.tokenizer_hash is 'Hash of the tokenizer''s vocabulary and special tokens';
comment on column saes.release is 'SAELens release, or the absolute folder that holds the SAE';
comment on column saes.sae_id is 'SAELens id within the release';
comment on column saes.sae_hash is 'Hash of the SAE''s weights';
comment on column saes.hook_name is 'TransformerLens name of the hook the SAE reads';
comment on column saes.architecture is 'SAELens architecture: standard, topk, jumprelu, gated or abstopk';
comment on column saes.d_in is 'Width of the hook';
comment on column saes.d_sae is 'Number of neurons (other names: features, latents)';
comment on column saes.dtype is 'Number format of model and SAE at build';
comment on column saes.context_size is 'Prompts were cut to this many tokens';
comment on column saes.prepend_bos is 'Whether a BOS token was put before each prompt';
comment on column saes.center_writing_weights is 'Whether the SAE reads the activation minus its mean';
comment on column saes.normalize_activations is 'SAELens input normalisation';
comment on column saes.reshape_activations is 'SAELens input reshaping (hook_z: heads are joined)';
comment on column saes.neuronpedia_id is 'Neuronpedia''s id of the SAE, when SAELens knows it';

create table prompts (prompt_id uinteger, text varchar, source varchar, n_tokens uinteger);
comment on table prompts is 'A reference prompt';
comment on column prompts.prompt_id is 'Number of the prompt, from 0, in the order given';
comment on column prompts.text is 'The prompt';
comment on column prompts.source is 'Where it comes from, when the prompt file says so';
comment on column prompts.n_tokens is 'Tokens that count: special tokens left out, after truncation';

create table embeddings (prompt_id uinteger, vector float[]);
comment on table embeddings is 'A prompt''s sentence embedding';
comment on column embeddings.prompt_id is 'The prompt';
comment on column embeddings.vector is 'Embedding of length 1';

create table shards (
    sae_key uinteger,
    shard uinteger,
    first_prompt uinteger,
    prompts uinteger,
    rows ubigint,
    finished_at timestamp
);
comment on table shards is 'A piece of a build: planned before it begins, finished in one transaction';
comment on column shards.sae_key is 'The SAE';
comment on column shards.shard is 'Number of the shard, from 0';
comment on column shards.first_prompt is 'prompt_id of its first prompt';
comment on column shards.prompts is 'Number of prompts, consecutive';
comment on column shards.rows is 'Activation rows it gave; null until finished';
comment on column shards.finished_at is 'When it was committed (UTC); null until finished';

create table activations (
    sae_key uinteger,
    neuron uinteger,
    prompt_id uinteger,
    act_sum float,
    act_max float,
    act_count uinteger
);
comment on table activations is 'A (neuron, prompt) that fired; sorted by SAE, neuron and prompt';
comment on column activations.sae_key is 'The SAE';
comment on column activations.neuron is 'The neuron, 0 to d_sae - 1';
comment on column activations.prompt_id is 'The prompt';
comment on column activations.act_sum is 'Sum of the activation over the prompt''s tokens (absolute values for abstopk)';
comment on column activations.act_max is 'Largest activation on a token';
comment on column activations.act_count is 'Number of tokens on which it fired';

create table prompt_totals (
    sae_key uinteger,
    prompt_id uinteger,
    sum_total double,
    max_total double,
    count_total double
);
comment on table prompt_totals is 'An (SAE, prompt): the sums over neurons that normalise a prompt''s weights to 1';
comment on column prompt_totals.sae_key is 'The SAE';
comment on column prompt_totals.prompt_id is 'The prompt';
comment on column prompt_totals.sum_total is 'Sum of act_sum over neurons';
comment on column prompt_totals.max_total is 'Sum of act_max over neurons';
comment on column prompt_totals.count_total is 'Sum of act_count over neurons';

create table neurons (
    sae_key uinteger,
    neuron uinteger,
    support uinteger,
    mass_mean double,
    mass_max double,
    mass_count double,
    square_mean double,
    square_max double,
    square_count double,
    density double,
    max_activation float,
    decoder_norm float,
    top_tokens varchar[],
    label varchar
);
comment on table neurons is 'A neuron, dead ones too';
comment on column neurons.sae_key is 'The SAE';
comment on column neurons.neuron is 'The neuron, 0 to d_sae - 1';
comment on column neurons.support is 'Reference prompts on which it fired';
comment on column neurons.mass_mean is 'Sum over prompts of its share of the prompt''s summed activation';
comment on column neurons.mass_max is 'The same with the largest activation per prompt';
comment on column neurons.mass_count is 'The same with the number of tokens on which it fired';
comment on column neurons.square_mean is 'Sum of the squares of what mass_mean sums; for standard errors';
comment on column neurons.square_max is 'The same of mass_max';
comment on column neurons.square_count is 'The same of mass_count';
comment on column neurons.density is 'Share of the reference tokens on which it fired';
comment on column neurons.max_activation is 'Its largest activation on a reference token; 0 when it never fired';
comment on column neurons.decoder_norm is 'Length of its decoder row, as decoding applies it';
comment on column neurons.top_tokens is 'Tokens its decoder row promotes most (final norm and unembedding), best first';
comment on column neurons.label is 'Free text, for users';

create table neuron_vectors (sae_key uinteger, neuron uinteger, vector float[], square float, expected_g float, spread float);
comment on table neuron_vectors is 'A neuron that fired, as a point among the sentence embeddings';
comment on column neuron_vectors.sae_key is 'The SAE';
comment on column neuron_vectors.neuron is 'The neuron';
comment on column neuron_vectors.vector is 'Mean of the prompts'' embeddings, each weighted by the neuron''s share of the prompt''s summed activation';
comment on column neuron_vectors.square is 'Mean of their squared lengths, weighted alike; 1 but for rounding';
comment on column neuron_vectors.expected_g is 'Its mean squared distance to a random reference prompt: g of a topic, were the topic one';
comment on column neuron_vectors.spread is 'Half the standard deviation of that g over reference prompts, g less its mean over the neurons that fired on 20 or more prompts; null where fewer than two did';

create table embedding_moments (mean float[], covariance float[][]);
comment on table embedding_moments is 'The embeddings of all reference prompts (one row)';
comment on column embedding_moments.mean is 'Their mean';
comment on column embedding_moments.covariance is 'Their covariance, over all of them';

create table labels (sae_key uinteger, neuron uinteger, source varchar, label varchar, quality float, created_at timestamp);
comment on table labels is 'A label of a neuron, one per source';
comment on column labels.sae_key is 'The SAE';
comment on column labels.neuron is 'The neuron';
comment on column labels.source is 'Where it comes from: words for those of `atlas label`; others are imported, or a user''s';
comment on column labels.label is 'A few words';
comment on column labels.quality is 'AUROC with which closeness to the label tells prompts, kept out of its making, on which the neuron fires most from others; null: not measured';
comment on column labels.created_at is 'When it was made (UTC)';

create table map (
    sae_key uinteger,
    neuron uinteger,
    basis varchar,
    x float,
    y float,
    seed ubigint,
    made_of varchar,
    created_at timestamp
);
comment on table map is 'A neuron''s place on a map, near those that are like it; made by `atlas map`';
comment on column map.sae_key is 'The SAE';
comment on column map.neuron is 'The neuron';
comment on column map.basis is 'What is alike: vectors (what neurons mean, all SAEs on one map) or decoder (what they write, a map per SAE)';
comment on column map.x is 'Its place from left to right; only distances mean something';
comment on column map.y is 'Its place from bottom to top';
comment on column map.seed is 'Seed of the random numbers';
comment on column map.made_of is 'Hash of what it was made of: the reference prompts and the SAEs for vectors, the SAE for decoder';
comment on column map.created_at is 'When it was made (UTC)';

create table notes (list varchar, sae_key uinteger, neuron uinteger, text varchar, created_at timestamp);
comment on table notes is 'A person''s note on a neuron, in a list of theirs; a neuron is in a list once';
comment on column notes.list is 'Name of the list';
comment on column notes.sae_key is 'The SAE';
comment on column notes.neuron is 'The neuron';
comment on column notes.text is 'What is said of it; may be empty';
comment on column notes.created_at is 'When it was written (UTC)';

create table examples (
    sae_key uinteger,
    neuron uinteger,
    rank uinteger,
    prompt_id uinteger,
    "position" uinteger,
    token varchar,
    activation float,
    context varchar
);
comment on table examples is 'One of a neuron''s strongest tokens in the reference prompts';
comment on column examples.sae_key is 'The SAE';
comment on column examples.neuron is 'The neuron';
comment on column examples.rank is '1 is the strongest';
comment on column examples.prompt_id is 'The prompt';
comment on column examples."position" is 'Token position in the prompt as the model saw it, BOS counted';
comment on column examples.token is 'The token';
comment on column examples.activation is 'Activation on the token';
comment on column examples.context is 'The text around it, the token between « and »';

create table token_values (sae_key uinteger, neuron uinteger, prompt_id uinteger, tokens varchar[], activations float[]);
comment on table token_values is 'A prompt on which a neuron fired, token by token; filled as neurons are looked at';
comment on column token_values.sae_key is 'The SAE';
comment on column token_values.neuron is 'The neuron';
comment on column token_values.prompt_id is 'The prompt';
comment on column token_values.tokens is 'Its tokens as the model saw them, BOS among them; joined they are the prompt';
comment on column token_values.activations is 'Activation on each (absolute values for abstopk); null for special tokens, which do not count';

create table token_logits (sae_key uinteger, neuron uinteger, side varchar, rank uinteger, token varchar, logit float);
comment on table token_logits is 'A token that a neuron''s decoder row promotes or suppresses most; filled as neurons are looked at';
comment on column token_logits.sae_key is 'The SAE';
comment on column token_logits.neuron is 'The neuron';
comment on column token_logits.side is 'promoted or suppressed';
comment on column token_logits.rank is '1 is the most';
comment on column token_logits.token is 'The token';
comment on column token_logits.logit is 'Its logit where the decoder row alone reaches the final norm and the unembedding';

create table logit_histograms (sae_key uinteger, neuron uinteger, low float, high float, counts uinteger[]);
comment on table logit_histograms is 'How the logits of a neuron''s decoder row are spread over the vocabulary; filled as neurons are looked at';
comment on column logit_histograms.sae_key is 'The SAE';
comment on column logit_histograms.neuron is 'The neuron';
comment on column logit_histograms.low is 'The smallest logit, as in token_logits';
comment on column logit_histograms.high is 'The largest';
comment on column logit_histograms.counts is 'Tokens in each of as many equal ranges from low to high; their sum is the vocabulary';

create table topics (topic_id uinteger, name varchar, created_at timestamp);
comment on table topics is 'A named topic';
comment on column topics.topic_id is 'Our integer for the topic';
comment on column topics.name is 'Its name';
comment on column topics.created_at is 'When it was first scored (UTC)';

create table topic_texts (topic_id uinteger, text_id uinteger, text varchar, n_tokens uinteger, vector float[]);
comment on table topic_texts is 'An alignment text of a topic';
comment on column topic_texts.topic_id is 'The topic';
comment on column topic_texts.text_id is 'Number of the text within the topic, from 0';
comment on column topic_texts.n_tokens is 'Tokens that count; null until scorer contrast or strawman ran the model over it';
comment on column topic_texts.text is 'The text';
comment on column topic_texts.vector is 'Its embedding of length 1';

create table topic_activations (
    topic_id uinteger,
    sae_key uinteger,
    text_id uinteger,
    neuron uinteger,
    act_sum float,
    act_max float,
    act_count uinteger
);
comment on table topic_activations is 'A (neuron, topic text) that fired; made by the scorers contrast and strawman';
comment on column topic_activations.topic_id is 'The topic';
comment on column topic_activations.sae_key is 'The SAE';
comment on column topic_activations.text_id is 'The text of the topic';
comment on column topic_activations.neuron is 'The neuron';
comment on column topic_activations.act_sum is 'Sum of the activation over the text''s tokens';
comment on column topic_activations.act_max is 'Largest activation on a token';
comment on column topic_activations.act_count is 'Number of tokens on which it fired';

create table scorings (
    scoring_id uinteger,
    topic_id uinteger,
    sae_key uinteger,
    scorer varchar,
    summary varchar,
    distance varchar,
    power double,
    min_support uinteger,
    null_topics uinteger,
    candidates uinteger,
    reference_hash varchar,
    rank_stability double,
    top_overlap double,
    bootstraps uinteger,
    is_current boolean,
    created_at timestamp
);
comment on table scorings is 'One scoring of an SAE''s neurons for a topic';
comment on column scorings.scoring_id is 'Our integer for the scoring';
comment on column scorings.topic_id is 'The topic';
comment on column scorings.sae_key is 'The SAE';
comment on column scorings.scorer is 'How neurons were scored: distance, centroid, contrast, strawman or output';
comment on column scorings.summary is 'Which summary of a prompt''s activations weighs the prompts: mean, max or count';
comment on column scorings.distance is 'Distance between sentence embeddings: euclidean or cosine';
comment on column scorings.power is 'Exponent of the distance';
comment on column scorings.min_support is 'Neurons that fired on fewer prompts have no score';
comment on column scorings.null_topics is 'Random topics behind z; 0 for none';
comment on column scorings.candidates is 'Scorer output: how many of the best neurons by distance were tried';
comment on column scorings.rank_stability is
'Mean Spearman correlation of the ranking with those over bootstrap samples of the prompts; null until computed';
comment on column scorings.top_overlap is 'Mean share of the 20 best neurons that are among the 20 best of a bootstrap sample';
comment on column scorings.bootstraps is 'Bootstrap samples behind the two';
comment on column scorings.reference_hash is 'Reference prompts it was made with';
comment on column scorings.is_current is 'Whether top, why and steer use it: the last one asked for, over today''s prompts';
comment on column scorings.created_at is 'When it was made (UTC)';

create table scores (scoring_id uinteger, neuron uinteger, g double, score double, se double, z double);
comment on table scores is 'A neuron under a scoring';
comment on column scores.scoring_id is 'The scoring';
comment on column scores.neuron is 'The neuron';
comment on column scores.g is
'What the score is made of. distance: weighted mean of distance ** power over the prompts; centroid: the same of the mean squared distance to the topic''s texts; contrast: mean activation per token on the topic''s texts minus that on the prompts; strawman: mean activation per token on the topic''s texts; output: output score';
comment on column scores.score is
'In [0, 1], 1 is best; null below min_support. distance and strawman: g mapped to [0, 1]; contrast: AUROC of topic texts against prompts; output: g';
comment on column scores.se is 'Standard error of the score; scorer distance only, for scorer centroid top and why compute it';
comment on column scores.z is
'Standard score of g against random topics, below 0 is closer than chance; scorers distance and centroid only, and null for distance when the topic has more texts than half the prompts';

create table nulls (
    null_id uinteger,
    sae_key uinteger,
    summary varchar,
    distance varchar,
    power double,
    min_support uinteger,
    null_topics uinteger,
    texts uinteger,
    reference_hash varchar
);
comment on table nulls is 'Random topics that z is measured against';
comment on column nulls.null_id is 'Our integer for the set of random topics';
comment on column nulls.sae_key is 'The SAE';
comment on column nulls.summary is 'As in scorings';
comment on column nulls.distance is 'As in scorings';
comment on column nulls.power is 'As in scorings';
comment on column nulls.min_support is 'As in scorings';
comment on column nulls.null_topics is 'How many random topics';
comment on column nulls.texts is 'Texts per random topic, drawn from the reference prompts';
comment on column nulls.reference_hash is 'Reference prompts they were drawn from';

create table null_scores (null_id uinteger, neuron uinteger, mean double, sd double);
comment on table null_scores is 'A neuron under random topics';
comment on column null_scores.null_id is 'The set of random topics';
comment on column null_scores.neuron is 'The neuron';
comment on column null_scores.mean is 'Mean of g minus the topic''s mean g over eligible neurons';
comment on column null_scores.sd is 'Standard deviation of the same';

create table pairs (name varchar, pair_id uinteger, prompt varchar, positive varchar, negative varchar);
comment on table pairs is 'A contrast pair';
comment on column pairs.name is 'The behaviour it shows';
comment on column pairs.pair_id is 'Number of the pair within the behaviour, from 0';
comment on column pairs.prompt is 'What both sides begin with; may be empty';
comment on column pairs.positive is 'Completion that shows the behaviour';
comment on column pairs.negative is 'Completion that shows the opposite';

create table pair_codes (
    name varchar,
    sae_key uinteger,
    "position" varchar,
    pair_id uinteger,
    side varchar,
    neuron uinteger,
    value float
);
comment on table pair_codes is 'A neuron that fired on one side of a contrast pair';
comment on column pair_codes.name is 'The behaviour';
comment on column pair_codes.sae_key is 'The SAE';
comment on column pair_codes."position" is 'Where in the text the code was taken: last, answer or mean';
comment on column pair_codes.pair_id is 'The pair';
comment on column pair_codes.side is 'positive or negative';
comment on column pair_codes.neuron is 'The neuron';
comment on column pair_codes.value is 'Its activation';

create table vectors (
    vector_id uinteger,
    name varchar,
    kind varchar,
    sae_key uinteger,
    "position" varchar,
    tau double,
    pairs uinteger,
    is_current boolean,
    created_at timestamp
);
comment on table vectors is 'A steering vector made from contrast pairs';
comment on column vectors.vector_id is 'Our integer for the vector';
comment on column vectors.name is 'The behaviour';
comment on column vectors.kind is 'sas: over the SAE''s neurons; dense: over the dimensions of the hook';
comment on column vectors.sae_key is 'The SAE, whose hook a dense vector is for';
comment on column vectors."position" is 'Where in the texts activations were taken: last, answer or mean';
comment on column vectors.tau is 'Least share of the pairs in which a neuron fires on a side; null for dense';
comment on column vectors.pairs is 'Pairs it was made from';
comment on column vectors.is_current is 'Whether steer uses it: the last one asked for';
comment on column vectors.created_at is 'When it was made (UTC)';

create table vector_entries (vector_id uinteger, "index" uinteger, value double);
comment on table vector_entries is 'A non-zero entry of a vector';
comment on column vector_entries.vector_id is 'The vector';
comment on column vector_entries."index" is 'Neuron (sas) or dimension (dense)';
comment on column vector_entries.value is 'Its value, in units of the activation';

create table runs (
    run_id uinteger,
    evaluation_id uinteger,
    topic varchar,
    method varchar,
    parameters varchar,
    seed ubigint,
    created_at timestamp
);
comment on table runs is 'A method under an evaluation';
comment on column runs.run_id is 'Our integer for the run';
comment on column runs.evaluation_id is 'Runs of one evaluation share prompts and seeds';
comment on column runs.topic is 'The topic, or the behaviour of a vector';
comment on column runs.method is 'Steering method or control';
comment on column runs.parameters is 'Settings of the method, of sampling and of the evaluation, as JSON';
comment on column runs.seed is 'First seed of the sampling';
comment on column runs.created_at is 'When it began (UTC)';

create table calibrations (
    topic varchar,
    sae_keys uinteger[],
    method varchar,
    parameters varchar,
    strength double,
    rule varchar,
    created_at timestamp
);
comment on table calibrations is 'The strength an evaluation picked, or that was fitted to the model';
comment on column calibrations.topic is 'The topic, or the behaviour of a vector';
comment on column calibrations.sae_keys is 'The SAEs steered at once';
comment on column calibrations.method is 'Steering method';
comment on column calibrations.parameters is 'Settings it holds for, as JSON; of a fitted one with scored_at, when the topic was scored';
comment on column calibrations.strength is 'The strength';
comment on column calibrations.rule is 'The rule that picked or fitted it, in words';
comment on column calibrations.created_at is 'When it was picked (UTC)';

create table generations (
    generation_id uinteger,
    run_id uinteger,
    scoring_ids uinteger[],
    vector_ids uinteger[],
    method varchar,
    parameters varchar,
    prompt varchar,
    text varchar,
    seed ubigint,
    created_at timestamp
);
comment on table generations is 'One generated text';
comment on column generations.generation_id is 'Our integer for the generation';
comment on column generations.run_id is 'The run of an evaluation it belongs to; null for one made by steer';
comment on column generations.vector_ids is 'The vectors that steered it';
comment on column generations.scoring_ids is 'The scorings that steered it, one per SAE; empty for method original';
comment on column generations.method is 'Steering method';
comment on column generations.parameters is 'Settings of the method and of sampling, as JSON';
comment on column generations.prompt is 'What the model was given';
comment on column generations.text is 'What it went on with, the prompt left out';
comment on column generations.seed is 'Seed of the sampling';
comment on column generations.created_at is 'When it was generated (UTC)';

create table metrics (
    run_id uinteger,
    generation_id uinteger,
    name varchar,
    value double,
    low double,
    high double
);
comment on table metrics is 'One figure of a generation or of a run';
comment on column metrics.run_id is 'The run; null for a generation made by steer';
comment on column metrics.generation_id is 'The generation; null for a figure of the whole run';
comment on column metrics.name is 'Which figure, such as contamination';
comment on column metrics.value is 'Its value';
comment on column metrics.low is 'Lower end of the 95 % interval; null for a single generation';
comment on column metrics.high is 'Upper end of the 95 % interval';
