//! Version `v1alpha1` of the custom resources.
#![expect(clippy::duplicated_attributes, reason = "two printer columns may be of one type")]
#![expect(unreachable_pub, reason = "KubeSchema copies every struct into the body of a function")]

mod approval;
mod duration;
mod fence;
mod report;
mod rollout;
mod selector;
mod status;

pub use approval::*;
pub use duration::{Duration, DurationError};
pub use fence::*;
pub use report::*;
pub use rollout::*;
pub use selector::*;
pub use status::*;
