//! Stop texts: where an answer ends because it says something that must not be in it.
//!
//! Each stop text has a Knuth-Morris-Pratt automaton: its state is how many bytes at the end of
//! what was said equal the start of the stop text. The largest state is exactly what must be held
//! back, and a full one is a match, wherever the pieces of text were cut.

/// Finds stop texts in an answer that comes in pieces; for providers.
///
/// ```
/// let mut stop = llm_core::StopMatcher::new(vec!["END".to_owned()]);
/// assert_eq!(stop.push("one E").text, "one ");
/// let matched = stop.push("ND two");
/// assert!(matched.stopped && matched.text.is_empty());
/// ```
#[derive(Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// The end of what was said, which may still become a stop text.
    held: String,
    stopped: bool,
}

/// What can be shown after a piece of text.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Matched {
    /// Text that is not part of a stop text.
    pub text: String,
    /// Whether a stop text was found; nothing is to follow.
    pub stopped: bool,
}

impl StopMatcher {
    /// Returns a matcher for `stops`; empty ones are ignored.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let patterns = stops.into_iter().filter(|s| !s.is_empty()).map(Pattern::new).collect();
        Self { patterns, held: String::new(), stopped: false }
    }

    /// Takes the next piece of the answer, and returns what can be shown now.
    ///
    /// The answer ends with the first stop text that is complete; of two that are complete at the
    /// same place, the longer one counts. So the result does not depend on where the pieces were
    /// cut, and never waits for text that generation would have to make first.
    pub fn push(&mut self, text: &str) -> Matched {
        if self.stopped {
            return Matched { text: String::new(), stopped: true };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            let matched = self.patterns.iter_mut().filter_map(|p| p.step(byte)).max();
            if let Some(bytes) = matched {
                self.stopped = true;
                let mut text = std::mem::take(&mut self.held);
                text.truncate(before + i + 1 - bytes);
                return Matched { text, stopped: true };
            }
        }
        let kept = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - kept);
        Matched { text: std::mem::replace(&mut self.held, held), stopped: false }
    }

    /// Ends the answer, and returns what was held back: it did not become a stop text.
    pub fn finish(&mut self) -> String {
        self.patterns.iter_mut().for_each(|p| p.matched = 0);
        std::mem::take(&mut self.held)
    }
}

#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length: the longest proper start of that many bytes which is also their end.
    border: Vec<usize>,
    /// How many bytes at the end of the text equal the start of `bytes`.
    matched: usize,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.into_bytes();
        let mut border = vec![0; bytes.len() + 1];
        for length in 2..=bytes.len() {
            let last = bytes[length - 1];
            let mut b = border[length - 1];
            while b > 0 && bytes[b] != last {
                b = border[b];
            }
            border[length] = if bytes[b] == last { b + 1 } else { 0 };
        }
        Self { bytes, border, matched: 0 }
    }

    /// Takes a byte; returns the length of the pattern if this completes it.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.border[self.matched];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        // The state is not used after a match, since the answer ends there.
        (self.matched == self.bytes.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|&s| s.to_owned()).collect())
    }

    fn shown(text: &str) -> Matched {
        Matched { text: text.to_owned(), stopped: false }
    }

    fn stopped(text: &str) -> Matched {
        Matched { text: text.to_owned(), stopped: true }
    }

    #[test]
    fn only_what_may_become_a_stop_text_is_held_back() {
        let mut m = matcher(&["\n\nUser:", "END"]);
        assert_eq!(m.push("one\n"), shown("one"));
        assert_eq!(m.push("two"), shown("\ntwo"));
        assert_eq!(m.push(" E"), shown(" "));
        assert_eq!(m.push("N"), shown(""));
        assert_eq!(m.push("E"), shown("EN"));
        assert_eq!(m.push("ND more"), stopped(""));
        assert_eq!(m.push("more"), stopped(""));
        assert_eq!(m.finish(), "");
    }

    #[test]
    fn what_was_held_back_comes_at_the_end() {
        let mut m = matcher(&["stop"]);
        assert_eq!(m.push("don't sto"), shown("don't "));
        assert_eq!(m.finish(), "sto");
        // Nothing of the last answer counts for the next.
        assert_eq!(m.push("p"), shown("p"));
    }

    #[test]
    fn without_stop_texts_everything_passes() {
        let mut m = matcher(&["", ""]);
        assert_eq!(m.push("é"), shown("é"));
        assert_eq!(m.finish(), "");
    }

    #[test]
    fn the_first_complete_stop_text_counts() {
        assert_eq!(matcher(&["abcd", "bc"]).push("abcd"), stopped("a"));
        assert_eq!(matcher(&["c", "abc"]).push("abcd"), stopped(""));
    }

    #[test]
    fn characters_that_share_bytes_are_not_cut() {
        // Both begin with the bytes E3 81.
        let mut m = matcher(&["あ!"]);
        assert_eq!(m.push("いあ"), shown("い"));
        assert_eq!(m.push("い"), shown("あい"));
    }

    /// What the matcher must give for all of `text`: shortest start of it that ends with a stop
    /// text, without the longest stop text it ends with.
    fn oracle<'a>(stops: &[String], text: &'a str) -> (&'a str, bool) {
        let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
        for end in ends {
            let found = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len);
            if let Some(length) = found.max() {
                return (&text[..end - length], true);
            }
        }
        (text, false)
    }

    /// The most that may be held back: the longest end of `text` that begins a stop text.
    fn longest_start(stops: &[String], text: &str) -> usize {
        let ends = text.char_indices().map(|(i, _)| &text[i..]);
        ends.filter(|end| stops.iter().any(|s| s.starts_with(end))).map(str::len).max().unwrap_or(0)
    }

    #[test]
    fn random_texts_give_what_the_oracle_gives() {
        let mut state = 7_u64;
        let mut random = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % n
        };
        let alphabet = ['a', 'b', 'é', 'è', '日'];
        let mut word = |longest: u64, letters: u64| -> String {
            let length = random(longest + 1);
            (0..length).map(|_| alphabet[random(letters) as usize]).collect()
        };
        let mut stops_found = 0;
        for round in 0..4000 {
            let letters = 2 + round % 4;
            let stops: Vec<String> =
                (0..3).map(|_| word(5, letters)).filter(|s| !s.is_empty()).collect();
            let pieces: Vec<String> = (0..8).map(|_| word(3, letters)).collect();
            let mut m = StopMatcher::new(stops.clone());
            let (mut said, mut shown, mut stopped) = (String::new(), String::new(), false);
            for piece in &pieces {
                said += piece;
                let matched = m.push(piece);
                shown += &matched.text;
                stopped = matched.stopped;
                if stopped {
                    break;
                }
                assert_eq!(said.len() - shown.len(), longest_start(&stops, &said), "{stops:?}");
            }
            shown += &m.finish();
            let whole = pieces.concat();
            assert_eq!((shown.as_str(), stopped), oracle(&stops, &whole), "{stops:?} {pieces:?}");
            stops_found += usize::from(stopped);
        }
        assert!((500..3500).contains(&stops_found), "both outcomes are tried: {stops_found}");
    }
}
