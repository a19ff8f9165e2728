//! A provider that plays a script, and the conformance suite that every provider must pass.

mod conformance;
mod scripted;

pub use self::{
    conformance::{Conformance, check},
    scripted::{Script, ScriptedProvider},
};
