# A GPU machine, its data volume, and three ports that its owner alone reaches.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7.0"
    }
    http = {
      source  = "hashicorp/http"
      version = "~> 3.4"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { Name = "roadseg" }
  }
}

locals {
  ports = { ssh = 22, jupyter = 8888, tensorboard = 6006 }
  # AWS wants the network's first address, which cidrsubnet gives.
  cidr = cidrsubnet(var.cidr != null ? var.cidr : "${chomp(data.http.caller[0].response_body)}/32", 0, 0)
  zone = var.zone != null ? var.zone : sort(data.aws_ec2_instance_type_offerings.gpu.locations)[0]

  boot_files = {
    "/usr/local/lib/roadseg/prepare.sh"             = "0755"
    "/usr/local/lib/roadseg/idle_stop.py"           = "0755"
    "/etc/systemd/system/roadseg-idle-stop.service" = "0644"
    "/etc/systemd/system/roadseg-idle-stop.timer"   = "0644"
  }
}

# What is there already -------------------------------------------------------------------------

data "http" "caller" {
  count = var.cidr == null ? 1 : 0
  url   = "https://checkip.amazonaws.com"

  lifecycle {
    postcondition {
      condition     = self.status_code == 200 && can(cidrnetmask("${chomp(self.response_body)}/32"))
      error_message = "Your address could not be looked up; give it: -var cidr=203.0.113.7/32."
    }
  }
}

data "aws_key_pair" "caller" {
  key_name = var.keyname
}

# Ubuntu 24.04 with NVIDIA's driver and Python 3.12.
data "aws_ssm_parameter" "image" {
  name = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
}

data "aws_ec2_instance_type_offerings" "gpu" {
  location_type = "availability-zone"
  filter {
    name   = "instance-type"
    values = [var.instance_type]
  }

  lifecycle {
    postcondition {
      condition     = length(self.locations) > 0
      error_message = "${var.instance_type} is not offered in ${var.region}; choose another type or region."
    }
  }
}

# The firewall ----------------------------------------------------------------------------------

resource "aws_security_group" "caller" {
  name_prefix = "roadseg-"
  description = "SSH, Jupyter and TensorBoard for the caller alone"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "caller" {
  for_each          = local.ports
  security_group_id = aws_security_group.caller.id
  description       = each.key
  cidr_ipv4         = local.cidr
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

# Packages, VGG16 and KITTI come by these.
resource "aws_vpc_security_group_egress_rule" "downloads" {
  for_each          = { http = 80, https = 443 }
  security_group_id = aws_security_group.caller.id
  description       = each.key
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

# The data volume -------------------------------------------------------------------------------

resource "aws_ebs_volume" "data" {
  #checkov:skip=CKV_AWS_189: encrypted with the account's key; one of its own adds rights to manage, for public data
  availability_zone = local.zone
  size              = var.data_gb
  type              = "gp3"
  encrypted         = true
  tags              = { Name = "roadseg-data" }

  lifecycle {
    prevent_destroy = true
    # Another instance type may have another first zone; the volume stays where it is.
    ignore_changes = [availability_zone]
  }
}

resource "aws_volume_attachment" "data" {
  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.data.id
  instance_id                    = aws_instance.gpu.id
  stop_instance_before_detaching = true
}

# The machine -----------------------------------------------------------------------------------

# The provider makes nothing of `spot` going from true to false; this makes a new machine.
resource "terraform_data" "spot" {
  input = var.spot
}

resource "aws_instance" "gpu" {
  #checkov:skip=CKV_AWS_126: nobody watches one-minute metrics of a machine that stops itself
  #checkov:skip=CKV2_AWS_41: it needs no rights in AWS, so it has none; it stops by powering off
  ami                    = data.aws_ssm_parameter.image.value
  instance_type          = var.instance_type
  availability_zone      = aws_ebs_volume.data.availability_zone
  key_name               = data.aws_key_pair.caller.key_name
  vpc_security_group_ids = [aws_security_group.caller.id]
  ebs_optimized          = true

  # The idle machine powers itself off; that must not delete it.
  instance_initiated_shutdown_behavior = "stop"

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.root_gb
    encrypted   = true
  }

  # Taken away, it is stopped, not deleted, and started again when there is capacity.
  dynamic "instance_market_options" {
    for_each = var.spot ? [1] : []
    content {
      market_type = "spot"
      spot_options {
        spot_instance_type             = "persistent"
        instance_interruption_behavior = "stop"
      }
    }
  }

  # JSON is YAML.
  user_data = join("\n", ["#cloud-config", jsonencode({
    write_files = [for target, mode in local.boot_files : {
      path        = target
      permissions = mode
      content     = file("${path.module}/boot/${basename(target)}")
    }]
    runcmd = [
      ["systemctl", "daemon-reload"],
      ["systemctl", "enable", "--now", "roadseg-idle-stop.timer"],
      ["/usr/local/lib/roadseg/prepare.sh", aws_ebs_volume.data.id, var.repository],
    ]
  })])

  lifecycle {
    # A newer image, or a change to the first boot, is no reason to replace a machine at work.
    ignore_changes       = [ami, user_data]
    replace_triggered_by = [terraform_data.spot]

    precondition {
      condition     = contains(data.aws_ec2_instance_type_offerings.gpu.locations, aws_ebs_volume.data.availability_zone)
      error_message = "The data volume lies in ${aws_ebs_volume.data.availability_zone}, where ${var.instance_type} is not offered; choose another type."
    }

    precondition {
      condition     = var.zone == null || var.zone == aws_ebs_volume.data.availability_zone
      error_message = "The data volume lies in ${aws_ebs_volume.data.availability_zone}, not in ${coalesce(var.zone, "-")}; the machine must be where it is."
    }
  }
}
