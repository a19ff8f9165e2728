//! The `tracing` side of a [`Span`](crate::Span): with the feature `tracing`, every phase is a `tracing` span too.
//!
//! The span is not entered, since the guard may move between threads; it opens and closes with the phase. Without the
//! feature this is an empty type.

#[cfg(feature = "tracing")]
pub(crate) use on::Traced;

#[cfg(not(feature = "tracing"))]
pub(crate) use off::Traced;

#[cfg(feature = "tracing")]
mod on {
    use crate::Phase;

    #[derive(Debug)]
    pub(crate) struct Traced {
        span: tracing::Span,
        units: u64,
    }

    impl Traced {
        /// Opens a span named after `phase`; `recorded` says that a recorder takes the phase already.
        #[inline]
        pub(crate) fn open(phase: Phase, recorded: bool) -> Self {
            // Each name needs a place in the program of its own, so the table is written out by the macro.
            macro_rules! span {
                ($($variant:ident = $name:literal,)+) => {
                    match phase {
                        $(Phase::$variant => tracing::debug_span!(
                            target: "perf_monitor", $name, recorded, units = tracing::field::Empty,
                        ),)+
                    }
                };
            }
            let span = span! {
                Queue = "queue", Fetch = "fetch", Load = "load", Quantise = "quantise", Tokenise = "tokenise",
                DecodeImage = "decode_image", Resize = "resize", Normalise = "normalise", Patchify = "patchify",
                VisionTower = "vision_tower", PrefillNew = "prefill_new", PrefillReused = "prefill_reused",
                DecodeStep = "decode_step", Sample = "sample", Detokenise = "detokenise",
            };
            Self { span, units: 0 }
        }

        #[inline]
        pub(crate) fn units(&mut self, units: u64) {
            self.units += units;
        }
    }

    impl Drop for Traced {
        #[inline]
        fn drop(&mut self) {
            if self.units > 0 {
                self.span.record("units", self.units);
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use crate::Phase;

    #[derive(Debug)]
    pub(crate) struct Traced;

    impl Traced {
        #[inline]
        pub(crate) fn open(_phase: Phase, _recorded: bool) -> Self {
            Self
        }

        #[inline]
        #[allow(clippy::unused_self, reason = "the same form as with the feature")]
        pub(crate) fn units(&mut self, _units: u64) {}
    }
}
