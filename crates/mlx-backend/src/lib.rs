//! Runs vision-language models on [MLX](https://github.com/ml-explore/mlx) behind the
//! [`llm_core::Provider`] trait: on Apple silicon, on NVIDIA GPUs and on Linux CPUs.
//!
//! [`MlxProvider::load`] takes a folder in the layout of the mlx-community (or the original Hugging
//! Face) checkpoints, quantised or full, or a GGUF file. What it needs is read strictly: a tensor that is missing,
//! left over or of another shape is an error that names it.
#![deny(unsafe_code)]

mod adapter;
mod attend;
mod batch;
mod caches;
mod calls;
mod chat;
mod checkpoint;
mod contained;
mod convert;
mod device;
mod engine;
mod error;
#[cfg(test)]
mod families;
mod ffi;
mod fused_layer;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod generate;
mod gguf;
#[cfg(test)]
mod golden;
mod grammar;
mod guard;
#[cfg(feature = "hub")]
mod hub;
mod image_reader;
mod kv_cache;
mod library;
mod locate;
mod matvec;
mod memory;
mod models;
mod nn;
#[cfg(test)]
mod noise;
#[cfg(test)]
mod parity;
mod prompt;
mod provider;
mod quantize;
mod recipe;
mod rope;
mod sampler;
mod text_stream;
mod tokenizer;
#[cfg(test)]
mod videos;
mod weights;

pub use crate::{
    caches::{CacheLimits, CacheReport, CacheStats, Caches, DiskCache},
    convert::{ConvertProgress, Converted, convert},
    device::{DeviceInfo, device_info},
    engine::LoadProgress,
    error::{Error, ImageError, LoadError, Result},
    guard::{
        ByteSize, MemoryBounds, MemoryCheck, MemoryFit, MemoryOptions, MemoryPolicy, MemoryStage,
        MemoryTerm, check_memory,
    },
    kv_cache::{KvCacheOptions, KvQuantize, KvWindow},
    library::{
        CachedModel, ModelDescription, Snapshot, cached_models, describe, download, hub_cache_dir,
        remove_cached,
    },
    locate::DownloadProgress,
    provider::{ComputeType, MlxOptions, MlxProvider, PROVIDER},
    quantize::{QuantizationMode, Quantize},
    recipe::{Recipe, Rule},
};
