//! Images to model input: decode, resize, letterbox, normalise and patchify, bit-equal to the reference
