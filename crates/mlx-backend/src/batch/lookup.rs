//! Speculative decoding by prompt lookup: what followed the last tokens where they stood before is taken
//! for a guess at what follows now, and the decoder reads the guess in one step. As many of its tokens
//! as the decoder would have said itself are the answer's, so the answer is the one without.
//!
//! Answers that repeat their prompt or themselves (a text that is read out, tables, code, a comparison
//! part by part) take several tokens a step. Source: arXiv:2304.04487, and transformers'
//! `prompt_lookup_num_tokens`.

/// What one answer and its prompt were so far, and how well guesses did.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Every token of the prompt and the answer, in order.
    history: Vec<u32>,
    /// Most tokens of a guess, at least 1.
    most: usize,
    /// Tokens of the next guess: more after a good one, fewer after a bad one.
    length: usize,
    /// Steps without a guess that follow, and followed the last bad one.
    pause: usize,
    last_pause: usize,
}

/// Tokens that must agree for what followed them to be a guess: one alone agrees by chance.
const FEWEST: usize = 2;

/// Last tokens that are searched.
const SEARCHED: usize = 1 << 15;

/// Tokens beyond which no better agreement is looked for.
const ENOUGH: usize = 8;

/// Most steps that pass after a guess of which nothing was right.
const LONGEST_PAUSE: usize = 32;

impl Lookup {
    /// Returns the lookup of an answer to `prompt`, with guesses of at most `most` tokens.
    pub(super) fn new(prompt: &[u32], most: usize) -> Self {
        let most = most.max(1);
        Self { history: prompt.to_vec(), most, length: most.min(3), pause: 0, last_pause: 0 }
    }

    /// Takes a token of the answer.
    pub(super) fn push(&mut self, token: u32) {
        self.history.push(token);
    }

    /// Whether a guess at the next tokens could be made, before the next one is known. Counts a step
    /// of a pause.
    pub(super) fn is_ready(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        !guess(&self.history, 1).is_empty()
    }

    /// Returns what may follow `next`, the token after those that were taken: at most `room` tokens,
    /// none where nothing is known.
    pub(super) fn guess(&mut self, next: u32, room: usize) -> Vec<u32> {
        self.history.push(next);
        let guessed = guess(&self.history, self.length.min(room)).to_vec();
        self.history.pop();
        guessed
    }

    /// Says how many of the `guessed` tokens were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if right == 0 {
            self.last_pause = (2 * self.last_pause + 1).min(LONGEST_PAUSE);
            self.pause = self.last_pause;
        } else {
            self.last_pause = 0;
        }
        self.length = match right == guessed {
            true => (2 * self.length).min(self.most),
            false => (right + 1).min(self.most),
        };
    }
}

/// Returns at most `length` tokens that followed the place before the end of `history` that agrees with
/// its end in the most tokens, the last of such places.
fn guess(history: &[u32], length: usize) -> &[u32] {
    let history = &history[history.len().saturating_sub(SEARCHED)..];
    let Some(last) = history.last() else { return &[] };
    let (mut best, mut from) = (FEWEST - 1, 0);
    for end in (1..history.len()).rev() {
        if history[end - 1] != *last {
            continue;
        }
        let pairs = history[..end].iter().rev().zip(history.iter().rev());
        let agree = pairs.take(ENOUGH).take_while(|(a, b)| a == b).count();
        if agree > best {
            (best, from) = (agree, end);
        }
        if agree == ENOUGH {
            break;
        }
    }
    match from {
        0 => &[],
        from => &history[from..history.len().min(from + length)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_longest_agreement_is_guessed() {
        assert_eq!(guess(&[], 4), [0; 0]);
        assert_eq!(guess(&[5], 4), [0; 0]);
        // One token alone says nothing.
        assert_eq!(guess(&[1, 2, 3, 2], 4), [0; 0]);
        assert_eq!(guess(&[1, 2, 3, 4, 1, 2], 2), [3, 4]);
        assert_eq!(guess(&[1, 2, 3, 4, 1, 2], 1), [3]);
        // The later of two places that agree as well.
        assert_eq!(guess(&[1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 1), [4]);
        // The earlier, if it agrees in more.
        assert_eq!(guess(&[7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], 1), [3]);
        // Into what repeats itself, up to its end.
        assert_eq!(guess(&[1, 2, 1, 2, 1, 2], 9), [1, 2]);
        assert_eq!(guess(&[6, 6, 6], 9), [6]);
    }

    #[test]
    fn guesses_grow_while_they_are_right_and_stop_for_a_while_where_they_are_not() {
        let repeated: Vec<u32> = (0..20).chain(0..5).collect();
        let mut lookup = Lookup::new(&repeated, 8);
        assert!(lookup.is_ready());
        assert_eq!(lookup.guess(5, 100), [6, 7, 8]);
        assert_eq!(lookup.guess(5, 2), [6, 7]);
        // It follows from nothing here.
        assert_eq!(lookup.guess(15, 100), [0; 0]);
        lookup.learn(3, 3);
        assert_eq!(lookup.guess(5, 100), [6, 7, 8, 9, 10, 11]);
        lookup.learn(6, 1);
        assert_eq!(lookup.guess(5, 100), [6, 7]);
        for pause in [1, 3, 7, 15, 31, 32, 32] {
            lookup.learn(2, 0);
            for _ in 0..pause {
                assert!(!lookup.is_ready());
            }
            assert!(lookup.is_ready());
        }
        lookup.learn(1, 1);
        assert!(lookup.is_ready());
        lookup.push(77);
        assert!(!lookup.is_ready());
    }
}
