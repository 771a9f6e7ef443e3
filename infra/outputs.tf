locals {
  key  = "~/.ssh/${var.keyname}.pem"
  host = "ubuntu@${aws_instance.gpu.public_ip}"
}

output "ssh" {
  description = "Logs in, with Jupyter and TensorBoard at localhost:8888 and localhost:6006"
  value       = "ssh -i ${local.key} -L 8888:localhost:8888 -L 6006:localhost:6006 ${local.host}"
}

output "setup" {
  description = "Pushes your checkout's HEAD, installs it and runs project_tests.py"
  value = join(" && ", [
    "ssh -i ${local.key} ${local.host} 'cloud-init status --wait; test -d /data/road/.git'",
    "GIT_SSH_COMMAND='ssh -i ${local.key}' git push ${local.host}:/data/road HEAD:main",
    "ssh -i ${local.key} ${local.host} /data/road/infra/setup.sh",
  ])
}

output "jupyter" {
  value = "http://${aws_instance.gpu.public_ip}:8888"
}

output "tensorboard" {
  value = "http://${aws_instance.gpu.public_ip}:6006"
}

output "start" {
  description = "Starts the machine after it stopped itself; then `terraform apply -refresh-only ...` for its new address"
  value       = "aws ec2 start-instances --region ${var.region} --instance-ids ${aws_instance.gpu.id}"
}

output "cancel_spot" {
  description = "To run before destroying a spot machine, lest its request start another"
  value       = var.spot ? "aws ec2 cancel-spot-instance-requests --region ${var.region} --spot-instance-request-ids ${aws_instance.gpu.spot_instance_request_id}" : null
}
