//! Chooses the next token from logits, on the device, so that nothing waits for the host.
//!
//! Order: what a grammar allows, penalties, temperature, top-k, top-p, min-p, then a draw, as transformers' logits
//! processors. Penalties count what was generated; the repetition penalty counts the prompt too.

use llm_core::GenerateParams;
use mlx_rs::{
    Array, Dtype,
    error::Result as MlxResult,
    ops::{self, indexing::TryIndexOp},
    random::{self, RandomState},
};

use crate::{
    Result,
    ffi::slice,
    grammar::{Grammar, Next},
};

/// `[B, V]` logits to the tokens `[B]` that the sampler of each row chooses.
pub(crate) fn sample_rows<'a>(
    samplers: impl ExactSizeIterator<Item = &'a mut Sampler>,
    logits: &Array,
) -> MlxResult<Array> {
    let mut samplers: Vec<&mut Sampler> = samplers.collect();
    match samplers.as_mut_slice() {
        [one] => one.sample(logits),
        all if all.iter().all(|sampler| sampler.takes_likeliest()) => likeliest(logits),
        all => {
            let vocabulary = logits.dim(1);
            let tokens = (0..).zip(all).map(|(row, sampler)| {
                sampler.sample(&slice(logits, [row, 0], [row + 1, vocabulary])?)
            });
            ops::concatenate(&tokens.collect::<MlxResult<Vec<_>>>()?, 0)
        }
    }
}

/// `[B, V]` logits to the likeliest token of each row, `[B]`.
pub(crate) fn likeliest(logits: &Array) -> MlxResult<Array> {
    ops::indexing::argmax_axis(logits.as_dtype(Dtype::Float32)?, -1, false)
}

/// Sampling parameters and what was seen so far of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    random: RandomState,
    penalties: Option<Penalties>,
    /// Boxed, since it is large and seldom there.
    grammar: Option<Box<Grammar>>,
}

impl Sampler {
    /// Returns a sampler for a request with the prompt `ids`, over a vocabulary of `vocabulary`.
    pub(crate) fn new(params: &GenerateParams, ids: &[u32], vocabulary: i32) -> MlxResult<Self> {
        // Without a seed the bits of a fresh hasher's keys, which the system draws at random.
        let fresh = || {
            use std::hash::{BuildHasher, Hasher};
            std::hash::RandomState::new().build_hasher().finish()
        };
        Ok(Self {
            temperature: params.temperature.unwrap_or(0.0),
            top_k: params.top_k.map_or(0, |k| i32::try_from(k).unwrap_or(0)),
            top_p: params.top_p.unwrap_or(1.0),
            min_p: params.min_p.unwrap_or(0.0),
            random: RandomState::with_seed(params.seed.unwrap_or_else(fresh))?,
            penalties: Penalties::new(params, ids, vocabulary)?,
            grammar: None,
        })
    }

    /// From now on chooses only what `grammar` allows.
    pub(crate) fn hold_to(&mut self, grammar: Option<Grammar>) {
        self.grammar = grammar.map(Box::new);
    }

    /// Whether it must be [told](Self::take) of each token before it can choose the next.
    pub(crate) fn is_held(&self) -> bool {
        self.grammar.is_some()
    }

    /// Takes the token that came, to know what may follow.
    ///
    /// # Errors
    /// As [`Grammar::take`].
    pub(crate) fn take(&mut self, token: u32) -> Result<()> {
        self.grammar.as_mut().map_or(Ok(()), |grammar| grammar.take(token))
    }

    /// Returns the tokens that must come next, as far as they are known, if there are any.
    pub(crate) fn ahead(&self) -> Vec<u32> {
        self.grammar.as_deref().into_iter().flat_map(Grammar::ahead).collect()
    }

    /// Whether nothing may follow.
    pub(crate) fn ends(&self) -> bool {
        self.grammar.as_ref().is_some_and(|grammar| grammar.next() == Next::Nothing)
    }

    /// Whether the token depends on the logits alone.
    pub(crate) fn takes_likeliest(&self) -> bool {
        self.temperature == 0.0 && self.penalties.is_none() && self.grammar.is_none()
    }

    /// `[1, V]` logits to a token `[1]`, which from now on counts as seen.
    pub(crate) fn sample(&mut self, logits: &Array) -> MlxResult<Array> {
        if self.takes_likeliest() {
            return likeliest(logits);
        }
        let mut logits = logits.as_dtype(Dtype::Float32)?;
        let mut only = None;
        match self.grammar.as_deref().map(Grammar::next) {
            Some(Next::Only(token)) => only = Some(token),
            Some(Next::Among(bits)) => logits = keep(&logits, &mask(bits, logits.dim(-1)))?,
            // What is chosen is thrown away.
            Some(Next::Nothing) | None => {}
        }
        let token = match only {
            Some(token) => Array::from_slice(&[token], &[1]),
            None => self.choose(&logits)?,
        };
        if let Some(penalties) = &mut self.penalties {
            penalties.count(&token)?;
        }
        Ok(token)
    }

    /// Counts a token that was not chosen here as seen.
    pub(crate) fn count(&mut self, token: u32) -> MlxResult<()> {
        let token = Array::from_slice(&[token], &[1]);
        self.penalties.as_mut().map_or(Ok(()), |penalties| penalties.count(&token))
    }

    /// `[1, V]` logits in f32 to a token `[1]`.
    fn choose(&mut self, logits: &Array) -> MlxResult<Array> {
        let punished = self.penalties.as_ref().map(|penalties| penalties.apply(logits));
        let punished = punished.transpose()?;
        let logits = punished.as_ref().unwrap_or(logits);
        if self.temperature == 0.0 {
            return likeliest(logits);
        }
        let logits = self.filter(&logits.divide(Array::from_f32(self.temperature))?)?;
        random::categorical(&logits, -1, None, &self.random.next_key()?)
    }

    /// Sets the logits of tokens that may not be drawn to minus infinity.
    fn filter(&self, logits: &Array) -> MlxResult<Array> {
        let mut logits = logits.clone();
        let vocabulary = logits.dim(-1);
        if self.top_k > 0 && self.top_k < vocabulary {
            let ascending = ops::sort_axis(&logits, -1)?;
            let at = vocabulary - self.top_k;
            logits = keep(&logits, &logits.ge(ascending.try_index((.., at..at + 1))?)?)?;
        }
        if self.top_p < 1.0 {
            // Ascending: a token stays if it and all less likely ones hold more than 1 - p. Every
            // token as likely as the last that stays, stays too.
            let probabilities = ops::softmax_axis(&logits, -1, true)?;
            let ascending = ops::sort_axis(&probabilities, -1)?;
            let held = ops::cumsum(&ascending, -1, None, None)?;
            let stays = held.gt(Array::from_f32(1.0 - self.top_p))?;
            let least = ops::select(&stays, &ascending, Array::from_f32(f32::INFINITY))?;
            // Rounding can leave no token at all; the likeliest always stays.
            let most = ascending.max_axis(-1, true)?;
            let least = ops::minimum(least.min_axis(-1, true)?, most)?;
            logits = keep(&logits, &probabilities.ge(least)?)?;
        }
        if self.min_p > 0.0 {
            let floor = logits.max_axis(-1, true)?.add(Array::from_f32(self.min_p.ln()))?;
            logits = keep(&logits, &logits.ge(floor)?)?;
        }
        Ok(logits)
    }
}

fn keep(logits: &Array, mask: &Array) -> MlxResult<Array> {
    ops::select(mask, logits, Array::from_f32(f32::NEG_INFINITY))
}

/// Returns the `vocabulary` first `bits` as `[1, V]`.
fn mask(bits: &[u32], vocabulary: i32) -> Array {
    let spread = bits.iter().flat_map(|word| (0..32).map(move |bit| word >> bit & 1 == 1));
    let mut allowed: Vec<bool> = spread.take(vocabulary as usize).collect();
    // Models pad the vocabulary with tokens that stand for nothing.
    allowed.resize(vocabulary as usize, false);
    Array::from_slice(&allowed, &[1, vocabulary])
}

/// Penalties on tokens that were seen.
#[derive(Debug)]
struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// `[1, V]`: 1 where a token is in the prompt, else 0.
    prompt: Array,
    /// `[1, V]`: how often a token was generated.
    generated: Array,
    /// `[1, V]`: the token ids.
    ids: Array,
}

impl Penalties {
    fn new(params: &GenerateParams, prompt: &[u32], vocabulary: i32) -> MlxResult<Option<Self>> {
        let repetition = params.repetition_penalty.unwrap_or(1.0);
        let frequency = params.frequency_penalty.unwrap_or(0.0);
        let presence = params.presence_penalty.unwrap_or(0.0);
        if repetition == 1.0 && frequency == 0.0 && presence == 0.0 {
            return Ok(None);
        }
        let mut seen = vec![0f32; vocabulary as usize];
        for &id in prompt {
            if let Some(seen) = seen.get_mut(id as usize) {
                *seen = 1.0;
            }
        }
        let shape = [1, vocabulary];
        let ids: Vec<u32> = (0..vocabulary as u32).collect();
        Ok(Some(Self {
            repetition,
            frequency,
            presence,
            prompt: Array::from_slice(&seen, &shape),
            generated: ops::zeros_dtype(&shape, Dtype::Float32)?,
            ids: Array::from_slice(&ids, &shape),
        }))
    }

    fn apply(&self, logits: &Array) -> MlxResult<Array> {
        let zero = Array::from_f32(0.0);
        let mut logits = logits.clone();
        if self.repetition != 1.0 {
            let by = Array::from_f32(self.repetition);
            let punished =
                ops::select(logits.gt(&zero)?, logits.divide(&by)?, logits.multiply(&by)?)?;
            let seen = self.prompt.add(&self.generated)?.gt(&zero)?;
            logits = ops::select(seen, punished, &logits)?;
        }
        let frequency = self.generated.multiply(Array::from_f32(self.frequency))?;
        let presence = self.generated.gt(&zero)?.multiply(Array::from_f32(self.presence))?;
        logits.subtract(frequency)?.subtract(presence)
    }

    fn count(&mut self, token: &Array) -> MlxResult<()> {
        let hit = self.ids.eq(token.reshape(&[-1, 1])?)?.as_dtype(Dtype::Float32)?;
        self.generated = self.generated.add(hit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 0.5, -1.0];

    fn draws(params: &GenerateParams, prompt: &[u32], n: usize) -> Vec<u32> {
        let logits = Array::from_slice(&LOGITS, &[1, 5]);
        let mut sampler = Sampler::new(params, prompt, 5).unwrap();
        (0..n).map(|_| sampler.sample(&logits).unwrap().item_exact::<u32>()).collect()
    }

    fn random(seed: u64) -> GenerateParams {
        GenerateParams { temperature: Some(1.0), seed: Some(seed), ..Default::default() }
    }

    /// Rows with parameters of their own draw what they draw alone.
    #[test]
    fn each_row_has_its_own_sampler() {
        let of_rows = [
            vec![GenerateParams::default(); 3],
            vec![
                random(1),
                GenerateParams::default(),
                GenerateParams { repetition_penalty: Some(4.0), ..Default::default() },
                GenerateParams { top_k: Some(2), ..random(7) },
            ],
        ];
        for params in of_rows {
            let new = |params| Sampler::new(params, &[1], 5).unwrap();
            let mut samplers: Vec<Sampler> = params.iter().map(new).collect();
            let rows = samplers.len() as i32;
            let mut logits = Array::from_slice(&LOGITS, &[1, 5]);
            logits = ops::broadcast_to(&logits, &[rows, 5]).unwrap();
            let mut found = vec![Vec::new(); params.len()];
            for _ in 0..20 {
                let tokens = sample_rows(samplers.iter_mut(), &logits).unwrap();
                let tokens = tokens.to_vec_exact::<u32>().unwrap();
                found.iter_mut().zip(tokens).for_each(|(row, token)| row.push(token));
            }
            let alone: Vec<_> = params.iter().map(|params| draws(params, &[1], 20)).collect();
            assert_eq!(found, alone);
        }
    }

    #[test]
    fn greedy_takes_the_likeliest() {
        assert_eq!(draws(&GenerateParams::default(), &[], 3), [1, 1, 1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let n = 4000;
        let found = draws(&random(1), &[], n);
        assert_eq!(found, draws(&random(1), &[], n));
        assert_ne!(found, draws(&random(2), &[], n));
        let sum: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        for (id, logit) in LOGITS.iter().enumerate() {
            let share = found.iter().filter(|&&f| f as usize == id).count() as f32 / n as f32;
            // Four standard deviations of a share near 0.6 in 4000 draws are 0.03.
            assert!((share - logit.exp() / sum).abs() < 0.03, "token {id}: {share}");
        }
    }

    #[test]
    fn filters_leave_only_what_they_promise() {
        let only = |params: GenerateParams| {
            let mut found = draws(&params, &[], 500);
            found.sort_unstable();
            found.dedup();
            found
        };
        assert_eq!(only(GenerateParams { top_k: Some(2), ..random(3) }), [1, 2]);
        assert_eq!(only(GenerateParams { top_k: Some(1), ..random(3) }), [1]);
        // Probabilities: 0.61, 0.23, 0.08, 0.05, 0.01 for tokens 1, 2, 0, 3, 4.
        assert_eq!(only(GenerateParams { top_p: Some(0.8), ..random(3) }), [1, 2]);
        assert_eq!(only(GenerateParams { top_p: Some(0.9), ..random(3) }), [0, 1, 2]);
        assert_eq!(only(GenerateParams { top_p: Some(1e-6), ..random(3) }), [1]);
        assert_eq!(only(GenerateParams { min_p: Some(0.3), ..random(3) }), [1, 2]);
        assert_eq!(only(GenerateParams { min_p: Some(1.0), ..random(3) }), [1]);
    }

    #[test]
    fn penalties_change_what_is_likeliest() {
        let repeat = GenerateParams { repetition_penalty: Some(4.0), ..Default::default() };
        // The prompt holds token 1: 3 / 4 is below token 2, then 2 / 4 below token 0, and so on.
        assert_eq!(draws(&repeat, &[1], 3), [2, 0, 1]);
        let often = GenerateParams { frequency_penalty: Some(1.5), ..Default::default() };
        // 3.0, then 2.0 (1.5 left), then 1.5 again.
        assert_eq!(draws(&often, &[1], 3), [1, 2, 1]);
        let once = GenerateParams { presence_penalty: Some(1.5), ..Default::default() };
        assert_eq!(draws(&once, &[], 4), [1, 2, 1, 1]);
    }
}
