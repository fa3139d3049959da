#pragma once
#include "core/array.h"
