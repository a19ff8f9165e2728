//! What vision towers are made of.
//!
//! ```text
//! patches -> one product -> block * depth -> what joins patches into features
//!
//! block:  x = x + attention(norm(x))    over the frame, or within windows
//!         x = x + mlp(norm(x))
//! ```
//!
//! `T` frames, `N` patches of a frame, `E` hidden, `H` heads, `D` head size.

mod attention;
mod encoder;
mod patches;
mod vit;
mod windows;

pub(super) use self::{
    attention::{Attention, Heads, Pass},
    encoder::{Encoder, EncoderSpec, Names},
    patches::{PatchEmbed, frame_rotation, patch_places, rotation},
    vit::{Vit, VitConfig},
    windows::Windows,
};
