//! Devices: what they are, their primary context, their pool of memory, and the kernels loaded there.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::sync::{Mutex, PoisonError};

use super::driver::{self, call, sys};
use super::images;
use super::matmul::Blas;
use crate::error::{Error, Result};

/// What a GPU is; asking takes none of its memory.
pub struct Properties {
    pub name: String,
    /// (9, 0) for sm_90.
    pub capability: (i32, i32),
    pub multiprocessors: usize,
    pub memory: usize,
    pools: bool,
    handle: sys::CUdevice,
}

/// A GPU in use. It stays so until the process ends: its context is the primary one, which torch uses too.
pub struct Device {
    pub ordinal: usize,
    pub properties: Properties,
    context: sys::CUcontext,
    pub(super) pool: sys::CUmemoryPool,
    /// By op.
    modules: Mutex<HashMap<String, Module>>,
    /// By name.
    functions: Mutex<HashMap<String, Function>>,
    blas: Mutex<Option<&'static Blas>>,
}

#[derive(Clone)]
struct Module {
    handle: sys::CUmodule,
    target: String,
}

/// A kernel on one device.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) parameters: &'static str,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

// SAFETY: handles of the driver, which may be used from any thread (CUDA driver API, "thread safety").
unsafe impl Send for Device {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Device {}

// SAFETY: as above.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

/// Why no GPU can be used here, if so.
pub fn missing() -> Option<String> {
    if let Some(why) = images::missing() {
        return Some(why);
    }
    match count() {
        Err(error) => Some(error.to_string()),
        Ok(0) => Some("the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES may hide it".into()),
        Ok(_) => None,
    }
}

fn count() -> Result<usize> {
    driver::version()?;
    let mut count = 0;
    // SAFETY: the driver is started, the place for the answer valid.
    call(unsafe { sys::cuDeviceGetCount(&raw mut count) }, || "counting GPUs".into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// How many GPUs can be asked for; 0 where `missing` says why.
pub fn device_count() -> usize {
    if missing().is_some() { 0 } else { count().unwrap_or(0) }
}

/// What the GPU of this number is.
///
/// # Errors
/// `Device`, saying what is missing.
pub fn properties(ordinal: usize) -> Result<Properties> {
    if let Some(why) = missing() {
        return Err(Error::Device(why));
    }
    let count = count()?;
    if ordinal >= count {
        return Err(Error::Device(format!("no GPU cuda:{ordinal}: there are {count}, counted from cuda:0")));
    }
    let during = || format!("asking what cuda:{ordinal} is");
    let mut handle = 0;
    // SAFETY: the driver is started, the place for the answer valid.
    call(unsafe { sys::cuDeviceGet(&raw mut handle, ordinal as c_int) }, during)?;
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: as above, with a device of the driver.
        call(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, handle) }, during)?;
        Ok::<c_int, Error>(value)
    };
    use sys::CUdevice_attribute as Attribute;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
    let (mut name, mut memory) = ([0; 256], 0);
    // SAFETY: the place for the name has the length that is told, and ends in 0 after the call.
    call(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, handle) }, during)?;
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: the place for the answer is valid.
    call(unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, handle) }, during)?;
    let multiprocessors = usize::try_from(multiprocessors).unwrap_or(1).max(1);
    Ok(Properties { name, capability: (major, minor), multiprocessors, memory, pools, handle })
}

impl Properties {
    /// The kernels that are meant for it: `sm_90`, or `compute_80` for PTX. None when it is too old for any.
    pub fn target(&self) -> Option<String> {
        let among = images::targets();
        images::target_for(self.capability, &among).or_else(|| images::ptx_for(self.capability, &among))
    }
}

/// The device of this number, made ready at the first call.
///
/// # Errors
/// As `properties`.
pub fn device(ordinal: usize) -> Result<&'static Device> {
    static DEVICES: Mutex<Vec<&'static Device>> = Mutex::new(Vec::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = devices.iter().find(|device| device.ordinal == ordinal) {
        return Ok(device);
    }
    let device: &'static Device = Box::leak(Box::new(Device::open(ordinal, properties(ordinal)?)?));
    devices.push(device);
    Ok(device)
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.properties.name)
    }
}

impl Device {
    fn open(ordinal: usize, properties: Properties) -> Result<Self> {
        if !properties.pools {
            let what = "its driver has no pools of memory, which some virtual GPUs lack";
            return Err(Error::Device(format!("cuda:{ordinal} cannot be used: {what}; use a whole GPU")));
        }
        let (handle, mut context) = (properties.handle, std::ptr::null_mut());
        // SAFETY: the place for the answer is valid; the context is never released, so that it outlives all that is
        // made in it.
        let answer = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, handle) };
        call(answer, || format!("opening cuda:{ordinal} ({})", properties.name))?;
        let pool = pool(handle, ordinal)?;
        let (modules, functions, blas) = Default::default();
        Ok(Self { ordinal, properties, context, pool, modules, functions, blas })
    }

    /// Makes this device the one that the calls of this thread are for.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained until the process ends.
        call(unsafe { sys::cuCtxSetCurrent(self.context) }, || format!("turning to cuda:{}", self.ordinal))
    }

    /// cuBLASLt here, started at the first call.
    pub(super) fn blas(&self) -> Result<&'static Blas> {
        let mut blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blas) = *blas {
            return Ok(blas);
        }
        self.bind()?;
        Ok(blas.insert(Box::leak(Box::new(Blas::new()?))))
    }

    /// What the kernels of an op are that run here, `sm_90` or `compute_80` (PTX); loads them.
    ///
    /// # Errors
    /// `Device`: no image fits.
    pub fn target(&self, op: &str) -> Result<String> {
        Ok(self.module(op)?.target)
    }

    fn module(&self, op: &str) -> Result<Module> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(op) {
            return Ok(module.clone());
        }
        let module = self.load(op)?;
        modules.insert(op.to_owned(), module.clone());
        Ok(module)
    }

    /// The machine code that fits; PTX where none does, or where the driver refuses it.
    fn load(&self, op: &str) -> Result<Module> {
        let ptx = ptx_only()?;
        self.bind()?;
        let among = images::targets();
        let native = images::target_for(self.properties.capability, &among).filter(|_| !ptx);
        for target in native.into_iter().chain(images::ptx_for(self.properties.capability, &among)) {
            let (answer, handle) = self.load_image(op, &target)?;
            if answer == sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU && target.starts_with("sm_") {
                continue;
            }
            call(answer, || format!("loading the kernels of {op} ({target}) to {self}"))?;
            return Ok(Module { handle, target });
        }
        let (major, minor) = self.properties.capability;
        let what = format!("has compute capability {major}.{minor}; 8.0 (Ampere) or later is needed");
        Err(Error::Device(format!("{self} {what}")))
    }

    fn load_image(&self, op: &str, target: &str) -> Result<(sys::CUresult, sys::CUmodule)> {
        let (bytes, mut handle) = (images::image(op, target)?, std::ptr::null_mut());
        // SAFETY: a whole image, or PTX that ends in 0; the driver copies it.
        let answer = unsafe { sys::cuModuleLoadData(&raw mut handle, bytes.as_ptr().cast()) };
        Ok((answer, handle))
    }

    /// The kernel `name`, loaded at the first call.
    pub(super) fn function(&self, name: &str) -> Result<Function> {
        if let Some(function) = self.functions.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(*function);
        }
        let kernel = images::kernel(name)?;
        let module = self.module(&kernel.op)?;
        let text = CString::new(name).map_err(|_| Error::Internal(format!("a kernel cannot be called `{name}`")))?;
        self.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a loaded module, which is never unloaded; the name ends in 0.
        let answer = unsafe { sys::cuModuleGetFunction(&raw mut handle, module.handle, text.as_ptr()) };
        call(answer, || format!("looking up the kernel {name} on cuda:{}", self.ordinal))?;
        let shared = kernel.tiles.map_or(0, |[.., shared]| shared as u32);
        if shared > 0 {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function lives.
            let answer = unsafe { sys::cuFuncSetAttribute(handle, which, shared as c_int) };
            call(answer, || format!("asking for {shared} bytes of shared memory for {name} on {self}"))?;
        }
        let function = Function { handle, parameters: &kernel.parameters, shared };
        self.functions.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), function);
        Ok(function)
    }
}

/// `LLMJP_CUDA_CODE=ptx`: PTX also where there is machine code.
fn ptx_only() -> Result<bool> {
    match std::env::var("LLMJP_CUDA_CODE").unwrap_or_default().as_str() {
        "" => Ok(false),
        "ptx" => Ok(true),
        other => Err(Error::Device(format!("LLMJP_CUDA_CODE must be `ptx` or not be set, it is `{other}`"))),
    }
}

/// Our own pool, which keeps what is freed: the default one is everybody's.
fn pool(handle: sys::CUdevice, ordinal: usize) -> Result<sys::CUmemoryPool> {
    // SAFETY: all zero is a valid value of this plain struct; the driver wants its reserved part so.
    let mut wanted: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    wanted.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    wanted.location.id = handle;
    let (mut pool, mut threshold) = (std::ptr::null_mut(), u64::MAX);
    let during = || format!("making a pool of memory on cuda:{ordinal}");
    // SAFETY: the places are valid; the properties name a device of the driver.
    call(unsafe { sys::cuMemPoolCreate(&raw mut pool, &raw const wanted) }, during)?;
    let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is a u64.
    call(unsafe { sys::cuMemPoolSetAttribute(pool, which, (&raw mut threshold).cast()) }, during)?;
    Ok(pool)
}
