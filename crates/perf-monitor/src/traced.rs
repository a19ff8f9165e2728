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

    /// Absent while nobody listens at this level: then opening and closing cost a load and two branches.
    #[derive(Debug)]
    pub(crate) struct Traced(Option<Box<Live>>);

    #[derive(Debug)]
    struct Live {
        span: tracing::Span,
        units: u64,
    }

    impl Traced {
        /// Opens a span named after `phase`; `recorded` says that a recorder takes the phase already.
        #[inline]
        pub(crate) fn open(phase: Phase, recorded: bool) -> Self {
            let heard = tracing::Level::DEBUG <= tracing::level_filters::LevelFilter::current();
            Self(heard.then(|| Live::open(phase, recorded)))
        }

        #[inline]
        pub(crate) fn units(&mut self, units: u64) {
            if let Some(live) = &mut self.0 {
                live.units += units;
            }
        }
    }

    impl Live {
        #[cold]
        fn open(phase: Phase, recorded: bool) -> Box<Self> {
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
            Box::new(Self { span, units: 0 })
        }
    }

    impl Drop for Live {
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
