variable "keyname" {
  type        = string
  description = "keyname: name of your EC2 key pair in this region (aws ec2 describe-key-pairs)"

  validation {
    condition     = trimspace(var.keyname) != ""
    error_message = "keyname is empty, expected the name of an EC2 key pair; see aws ec2 describe-key-pairs."
  }
}

variable "cidr" {
  type        = string
  default     = null
  description = "The only addresses that reach the machine; null for the address you call from"

  validation {
    condition     = var.cidr == null || can(cidrnetmask(var.cidr))
    error_message = "cidr is '${var.cidr == null ? "" : var.cidr}', expected IPv4 addresses such as 203.0.113.7/32; your own: curl https://checkip.amazonaws.com"
  }

  validation {
    # What is no CIDR at all was refused above.
    condition     = var.cidr == null || try(tonumber(split("/", var.cidr)[1]) >= 24, true)
    error_message = "cidr is '${var.cidr == null ? "" : var.cidr}', which opens the machine to strangers, expected /24 or narrower, such as 203.0.113.7/32."
  }
}

variable "region" {
  type        = string
  default     = "us-east-1"
  description = "AWS region"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is '${var.region}', expected one such as us-east-1."
  }
}

variable "zone" {
  type        = string
  default     = null
  description = "Availability zone, such as us-east-1b; null for the first that offers the type"
}

variable "instance_type" {
  type        = string
  default     = "g4dn.xlarge"
  description = "EC2 type with an NVIDIA GPU that the image's driver and TensorFlow know"

  validation {
    condition     = can(regex("^(g4dn|g5|g6|g6e|gr6|p4d|p4de|p5|p5e|p5en)\\.([0-9]*xlarge|metal)$", var.instance_type))
    error_message = "instance_type is '${var.instance_type}', expected an x86 type with an NVIDIA GPU: g4dn, g5, g6, g6e, gr6, p4d, p4de, p5, p5e or p5en, such as g4dn.xlarge."
  }
}

variable "spot" {
  type        = bool
  default     = false
  description = "Rent spare capacity: cheaper, and stopped on two minutes' notice"
}

variable "data_gb" {
  type        = number
  default     = 100
  description = "Size of the data volume, which holds checkout, data/ and runs/"

  validation {
    condition     = var.data_gb >= 20 && var.data_gb <= 16384 && floor(var.data_gb) == var.data_gb
    error_message = "data_gb is ${var.data_gb}, expected a whole number from 20 to 16384."
  }
}

variable "root_gb" {
  type        = number
  default     = 100
  description = "Size of the system disk, which goes with the instance; not below the image's"

  validation {
    condition     = var.root_gb >= 75 && var.root_gb <= 16384 && floor(var.root_gb) == var.root_gb
    error_message = "root_gb is ${var.root_gb}, expected a whole number from 75 to 16384."
  }
}

variable "repository" {
  type        = string
  default     = ""
  description = "https:// address to clone and set up from at first boot; empty to push it yourself"

  validation {
    condition     = var.repository == "" || can(regex("^https://[^\\s'\"@]+$", var.repository))
    error_message = "repository is '${var.repository}', expected an https:// address without a password in it, or nothing."
  }
}
