//! plan world
