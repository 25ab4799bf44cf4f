//! host netns
