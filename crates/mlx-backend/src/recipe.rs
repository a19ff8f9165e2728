//! How each layer of a checkpoint is packed: one packing for all, a recipe by depth, and rules by path.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

use crate::quantize::{QuantizationMode, Quantize, stays_dense};

/// How each layer of a checkpoint is packed.
///
/// A layer follows the first of the rules whose pattern its path matches, else the base. Whatever the
/// base says, towers stay dense, and so does a layer whose inputs do not divide into groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    base: Base,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Uniform(Quantize),
    /// More bits for the embedding, the head, and `v_proj` and `down_proj` of some layers: of the first
    /// and last eighth and of every third between. Source: mlx-lm, `mixed_quant_predicate_builder`.
    Mixed {
        low: i32,
        high: i32,
    },
}

/// Group size of the recipes by depth.
const MIXED_GROUP: i32 = 64;

impl From<Quantize> for Recipe {
    /// The same packing for all layers.
    fn from(how: Quantize) -> Self {
        Self { base: Base::Uniform(how), rules: Vec::new() }
    }
}

impl Recipe {
    /// Names of the recipes by depth, as in mlx-lm and mlx-vlm: most layers have the first number of
    /// bits, those that suffer most from packing the second.
    pub const MIXED: [&str; 7] =
        ["mixed_2_6", "mixed_3_4", "mixed_3_5", "mixed_3_6", "mixed_3_8", "mixed_4_6", "mixed_4_8"];

    /// Returns the recipe of this name, one of [`MIXED`](Self::MIXED).
    ///
    /// # Errors
    /// A sentence with the names there are.
    pub fn mixed(name: &str) -> Result<Self, String> {
        let bits = |name: &str| {
            let (low, high) = name.strip_prefix("mixed_")?.split_once('_')?;
            Some(Base::Mixed { low: low.parse().ok()?, high: high.parse().ok()? })
        };
        let base = Self::MIXED.contains(&name).then(|| bits(name)).flatten();
        base.map(|base| Self { base, rules: Vec::new() })
            .ok_or_else(|| format!("expected one of {}, found {name}", Self::MIXED.join(", ")))
    }

    /// Adds rules, which win over the base; of several that match, the first does.
    #[must_use]
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Checks that MLX has kernels for every packing.
    ///
    /// # Errors
    /// A sentence with what was expected and what was found.
    pub fn validate(&self) -> Result<(), String> {
        self.default().validate()?;
        self.rules.iter().filter_map(|rule| rule.packing).try_for_each(|how| how.validate())
    }

    /// Returns the packing of most layers.
    pub(crate) fn default(&self) -> Quantize {
        match self.base {
            Base::Uniform(how) => how,
            Base::Mixed { low, .. } => Quantize::affine(low, MIXED_GROUP),
        }
    }

    /// Returns how to pack the weight of the module at `path` with `inputs` columns, of a model with
    /// `layers` layers; `None` if it stays dense.
    pub(crate) fn packing(&self, path: &str, inputs: i32, layers: usize) -> Option<Quantize> {
        let how = match self.rules.iter().find(|rule| rule.matches(path)) {
            Some(rule) => rule.packing?,
            None if stays_dense(path) => return None,
            None => self.by_depth(path, layers),
        };
        (inputs % how.group_size == 0).then_some(how)
    }

    fn by_depth(&self, path: &str, layers: usize) -> Quantize {
        let Base::Mixed { low, high } = self.base else { return self.default() };
        let layer = path.split('.').find_map(|part| part.parse::<usize>().ok()).unwrap_or(0);
        let eighth = layers / 8;
        let sensitive = layer < eighth
            || layer >= 7 * layers / 8
            || layer.checked_sub(eighth).is_some_and(|after| after % 3 == 2);
        let has = |names: [&str; 2]| names.iter().any(|name| path.contains(name));
        let more = has(["lm_head", "embed_tokens"]) || sensitive && has(["v_proj", "down_proj"]);
        Quantize::affine(if more { high } else { low }, MIXED_GROUP)
    }

    /// Returns the first rule that is the first match of none of `paths`.
    pub(crate) fn idle_rule<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Option<&Rule> {
        let mut idle = vec![true; self.rules.len()];
        for path in paths {
            if let Some(i) = self.rules.iter().position(|rule| rule.matches(path)) {
                idle[i] = false;
            }
        }
        self.rules.iter().zip(idle).find_map(|(rule, idle)| idle.then_some(rule))
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Uniform(how) => write!(f, "{how}")?,
            Base::Mixed { low, high } => write!(f, "{low} and {high} bits in groups of 64")?,
        }
        match self.rules.len() {
            0 => Ok(()),
            1 => f.write_str(" and one rule"),
            n => write!(f, " and {n} rules"),
        }
    }
}

/// The `config.json` entry of a packing.
pub(crate) fn entry(how: Quantize) -> Value {
    json!({"group_size": how.group_size, "bits": how.bits, "mode": how.mode})
}

/// How the layers are packed whose path matches a pattern.
///
/// As a text, `PATTERN=BITS`, `PATTERN=BITS/GROUP`, `PATTERN=MODE` or `PATTERN=full`, which leaves them
/// as they are. The pattern is the module path as in MLX checkpoints, such as
/// `language_model.model.layers.0.mlp.down_proj`; a `*` in it stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What a path must look like.
    pub pattern: String,
    /// How to pack the layer; `None` leaves it as it is.
    pub packing: Option<Quantize>,
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let mut pieces = self.pattern.split('*');
        let Some(rest) = pieces.next().and_then(|first| path.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        // Each piece where it is found first leaves the most for those after it.
        let after = pieces.try_fold(rest, |rest, piece| Some(rest.split_once(piece)?.1));
        after.is_some_and(|rest| rest.ends_with(last))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packing {
            None => write!(f, "{}=full", self.pattern),
            Some(how) if how == Quantize::from(how.mode) && how != Quantize::default() => {
                write!(f, "{}={}", self.pattern, how.mode)
            }
            Some(how) => write!(f, "{}={}/{}", self.pattern, how.bits, how.group_size),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected PATTERN=WHAT, WHAT being 2, 3, 4, 5, 6 or 8 bits, BITS/GROUP, mxfp4, \
                 mxfp8, nvfp4 or full, found {text}"
            )
        };
        let (pattern, what) = text.rsplit_once('=').ok_or_else(expected)?;
        let number = |text: &str| text.parse().map_err(|_| expected());
        let packing = match (what, what.split_once('/')) {
            ("full", _) => None,
            (_, Some((bits, group))) => Some(Quantize::affine(number(bits)?, number(group)?)),
            _ => match what.parse::<QuantizationMode>() {
                Ok(mode) => Some(Quantize::from(mode)),
                Err(_) => Some(Quantize::affine(number(what)?, Quantize::default().group_size)),
            },
        };
        if pattern.is_empty() {
            return Err(expected());
        }
        packing.map_or(Ok(()), |how: Quantize| how.validate())?;
        Ok(Self { pattern: pattern.to_owned(), packing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    /// The layers that mlx-vlm 0.7.10 chooses in a model of six layers, and in one of 36.
    #[test]
    fn a_recipe_by_depth_is_that_of_the_reference() {
        let recipe = Recipe::mixed("mixed_3_6").unwrap();
        let bits = |layers: usize, path: &str| recipe.packing(path, 256, layers).map(|q| q.bits);
        for i in 0..6 {
            let path = |part: &str| format!("language_model.model.layers.{i}.{part}");
            let expected = if i == 2 || i == 5 { 6 } else { 3 };
            assert_eq!(bits(6, &path("mlp.down_proj")), Some(expected), "{i}");
            assert_eq!(bits(6, &path("self_attn.v_proj")), Some(expected), "{i}");
            assert_eq!(bits(6, &path("self_attn.k_proj")), Some(3));
        }
        assert_eq!(bits(6, "language_model.model.embed_tokens"), Some(6));
        assert_eq!(bits(6, "vision_tower.blocks.0.mlp.down_proj"), None);
        let more = (0..36).filter(|i| {
            bits(36, &format!("language_model.model.layers.{i}.mlp.down_proj")) == Some(6)
        });
        let expected =
            [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35].into_iter();
        assert!(more.eq(expected));
    }

    #[test]
    fn the_first_rule_that_matches_wins_and_reaches_towers() {
        let rules = ["*.layers.1.*=8", "*down_proj=full", "*.v_proj=6/32", "vision_tower*=mxfp8"];
        let recipe = Recipe::from(Quantize::default()).with_rules(rules.map(rule));
        let packing = |path: &str| recipe.packing(path, 64, 2);
        assert_eq!(packing("m.layers.1.mlp.down_proj"), Some(Quantize::affine(8, 64)));
        assert_eq!(packing("m.layers.0.mlp.down_proj"), None);
        assert_eq!(packing("m.layers.0.self_attn.v_proj"), Some(Quantize::affine(6, 32)));
        assert_eq!(packing("vision_tower.x"), Some(QuantizationMode::Mxfp8.into()));
        assert_eq!(packing("m.layers.0.mlp.up_proj"), Some(Quantize::default()));
        assert_eq!(recipe.packing("vision_tower.x", 24, 2), None);
        let idle = recipe.idle_rule(["m.layers.1.v_proj", "a.down_proj"].into_iter());
        assert_eq!(idle, Some(&rule("*.v_proj=6/32")));
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, path, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a*", "a", true),
            ("*b", "a.b", true),
            ("*b", "a.b.c", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*a*a*", "a", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ] {
            let rule = Rule { pattern: pattern.to_owned(), packing: None };
            assert_eq!(rule.matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("lm_head=8", "lm_head=8/64"),
            ("*=4/32", "*=4/32"),
            ("a=nvfp4", "a=nvfp4"),
            ("a=b=full", "a=b=full"),
        ] {
            assert_eq!(rule(text).to_string(), shown);
        }
        for text in ["", "a", "a=", "=4", "a=x", "a=4/x", "a=7", "a=4/48", "a=-4"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        assert!(Recipe::mixed("mixed_1_2").unwrap_err().contains("mixed_2_6, mixed_3_4"));
    }
}
