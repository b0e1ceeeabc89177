//! The contract of each operation: maths, shapes, checks. The only code that knows all devices.
